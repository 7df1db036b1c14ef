# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
DESCRIPTOR = _POOL.AddSerializedFile(b'\n anyarch/api/proto/exporter.proto\x12\x10moby.exporter.v1\"\x9d\x01\n\x14\x46indExportersRequest\x12\x46\n\x08metadata\x18\x01 \x03(\x0b\x32\x34.moby.exporter.v1.FindExportersRequest.MetadataEntry\x12\x0c\n\x04refs\x18\x02 \x03(\t\x1a/\n\rMetadataEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\x0c:\x02\x38\x01\"M\n\x15\x46indExportersResponse\x12\x34\n\texporters\x18\x01 \x03(\x0b\x32!.moby.exporter.v1.ExporterRequest\"\x8a\x01\n\x0f\x45xporterRequest\x12\x0c\n\x04Type\x18\x01 \x01(\t\x12;\n\x05\x41ttrs\x18\x02 \x03(\x0b\x32,.moby.exporter.v1.ExporterRequest.AttrsEntry\x1a,\n\nAttrsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\xaa\x01\n\x15\x46inalizeExportRequest\x12X\n\x11\x65xporter_response\x18\x01 \x03(\x0b\x32=.moby.exporter.v1.FinalizeExportRequest.ExporterResponseEntry\x1a\x37\n\x15\x45xporterResponseEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\x18\n\x16\x46inalizeExportResponse2\xd1\x01\n\x08\x45xporter\x12`\n\rFindExporters\x12&.moby.exporter.v1.FindExportersRequest\x1a\'.moby.exporter.v1.FindExportersResponse\x12\x63\n\x0e\x46inalizeExport\x12\'.moby.exporter.v1.FinalizeExportRequest\x1a(.moby.exporter.v1.FinalizeExportResponseb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.exporter_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_FINDEXPORTERSREQUEST_METADATAENTRY']._loaded_options = None
  _globals['_FINDEXPORTERSREQUEST_METADATAENTRY']._serialized_options = b'8\001'
  _globals['_EXPORTERREQUEST_ATTRSENTRY']._loaded_options = None
  _globals['_EXPORTERREQUEST_ATTRSENTRY']._serialized_options = b'8\001'
  _globals['_FINALIZEEXPORTREQUEST_EXPORTERRESPONSEENTRY']._loaded_options = None
  _globals['_FINALIZEEXPORTREQUEST_EXPORTERRESPONSEENTRY']._serialized_options = b'8\001'
  _globals['_FINDEXPORTERSREQUEST']._serialized_start=55
  _globals['_FINDEXPORTERSREQUEST']._serialized_end=212
  _globals['_FINDEXPORTERSREQUEST_METADATAENTRY']._serialized_start=165
  _globals['_FINDEXPORTERSREQUEST_METADATAENTRY']._serialized_end=212
  _globals['_FINDEXPORTERSRESPONSE']._serialized_start=214
  _globals['_FINDEXPORTERSRESPONSE']._serialized_end=291
  _globals['_EXPORTERREQUEST']._serialized_start=294
  _globals['_EXPORTERREQUEST']._serialized_end=432
  _globals['_EXPORTERREQUEST_ATTRSENTRY']._serialized_start=388
  _globals['_EXPORTERREQUEST_ATTRSENTRY']._serialized_end=432
  _globals['_FINALIZEEXPORTREQUEST']._serialized_start=435
  _globals['_FINALIZEEXPORTREQUEST']._serialized_end=605
  _globals['_FINALIZEEXPORTREQUEST_EXPORTERRESPONSEENTRY']._serialized_start=550
  _globals['_FINALIZEEXPORTREQUEST_EXPORTERRESPONSEENTRY']._serialized_end=605
  _globals['_FINALIZEEXPORTRESPONSE']._serialized_start=607
  _globals['_FINALIZEEXPORTRESPONSE']._serialized_end=631
  _globals['_EXPORTER']._serialized_start=634
  _globals['_EXPORTER']._serialized_end=843
