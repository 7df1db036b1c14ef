# Made by tools/generate_proto.py; do not edit.
from anyarch.api.proto.pool import make as _make
DESCRIPTOR = _make(b'\n\x1d\x61nyarch/api/proto/trace.proto\x12&opentelemetry.proto.collector.trace.v1\"\x1b\n\x19\x45xportTraceServiceRequest\"\x1c\n\x1a\x45xportTraceServiceResponse2\xa0\x01\n\x0cTraceService\x12\x8f\x01\n\x06\x45xport\x12\x41.opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest\x1a\x42.opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponseb\x06proto3', globals())
