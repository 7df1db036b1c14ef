# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1f\x61nyarch/api/proto/apicaps.proto\x12\x18moby.buildkit.v1.apicaps\"\x89\x01\n\x06\x41PICap\x12\n\n\x02ID\x18\x01 \x01(\t\x12\x0f\n\x07\x45nabled\x18\x02 \x01(\x08\x12\x12\n\nDeprecated\x18\x03 \x01(\x08\x12\x16\n\x0e\x44isabledReason\x18\x04 \x01(\t\x12\x19\n\x11\x44isabledReasonMsg\x18\x05 \x01(\t\x12\x1b\n\x13\x44isabledAlternative\x18\x06 \x01(\tb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.apicaps_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_APICAP']._serialized_start=62
  _globals['_APICAP']._serialized_end=199
