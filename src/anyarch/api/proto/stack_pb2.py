# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1d\x61nyarch/api/proto/stack.proto\x12\x05stack\"f\n\x05Stack\x12\x1c\n\x06\x66rames\x18\x01 \x03(\x0b\x32\x0c.stack.Frame\x12\x0f\n\x07\x63mdline\x18\x02 \x03(\t\x12\x0b\n\x03pid\x18\x03 \x01(\x05\x12\x0f\n\x07version\x18\x04 \x01(\t\x12\x10\n\x08revision\x18\x05 \x01(\t\"1\n\x05\x46rame\x12\x0c\n\x04Name\x18\x01 \x01(\t\x12\x0c\n\x04\x46ile\x18\x02 \x01(\t\x12\x0c\n\x04Line\x18\x03 \x01(\x05\x62\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.stack_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_STACK']._serialized_start=40
  _globals['_STACK']._serialized_end=142
  _globals['_FRAME']._serialized_start=144
  _globals['_FRAME']._serialized_end=193
