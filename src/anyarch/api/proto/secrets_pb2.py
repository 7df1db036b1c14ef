# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1f\x61nyarch/api/proto/secrets.proto\x12\x18moby.buildkit.secrets.v1\"\xa4\x01\n\x10GetSecretRequest\x12\n\n\x02ID\x18\x01 \x01(\t\x12P\n\x0b\x61nnotations\x18\x02 \x03(\x0b\x32;.moby.buildkit.secrets.v1.GetSecretRequest.AnnotationsEntry\x1a\x32\n\x10\x41nnotationsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"!\n\x11GetSecretResponse\x12\x0c\n\x04\x64\x61ta\x18\x01 \x01(\x0c\x32o\n\x07Secrets\x12\x64\n\tGetSecret\x12*.moby.buildkit.secrets.v1.GetSecretRequest\x1a+.moby.buildkit.secrets.v1.GetSecretResponseb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.secrets_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_GETSECRETREQUEST_ANNOTATIONSENTRY']._loaded_options = None
  _globals['_GETSECRETREQUEST_ANNOTATIONSENTRY']._serialized_options = b'8\001'
  _globals['_GETSECRETREQUEST']._serialized_start=62
  _globals['_GETSECRETREQUEST']._serialized_end=226
  _globals['_GETSECRETREQUEST_ANNOTATIONSENTRY']._serialized_start=176
  _globals['_GETSECRETREQUEST_ANNOTATIONSENTRY']._serialized_end=226
  _globals['_GETSECRETRESPONSE']._serialized_start=228
  _globals['_GETSECRETRESPONSE']._serialized_end=261
  _globals['_SECRETS']._serialized_start=263
  _globals['_SECRETS']._serialized_end=374
