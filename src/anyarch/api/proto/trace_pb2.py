# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1d\x61nyarch/api/proto/trace.proto\x12&opentelemetry.proto.collector.trace.v1\"\x1b\n\x19\x45xportTraceServiceRequest\"\x1c\n\x1a\x45xportTraceServiceResponse2\xa0\x01\n\x0cTraceService\x12\x8f\x01\n\x06\x45xport\x12\x41.opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest\x1a\x42.opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponseb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.trace_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_EXPORTTRACESERVICEREQUEST']._serialized_start=73
  _globals['_EXPORTTRACESERVICEREQUEST']._serialized_end=100
  _globals['_EXPORTTRACESERVICERESPONSE']._serialized_start=102
  _globals['_EXPORTTRACESERVICERESPONSE']._serialized_end=130
  _globals['_TRACESERVICE']._serialized_start=133
  _globals['_TRACESERVICE']._serialized_end=293
