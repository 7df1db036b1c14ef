# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1c\x61nyarch/api/proto/auth.proto\x12\x10moby.filesync.v1\"\"\n\x12\x43redentialsRequest\x12\x0c\n\x04Host\x18\x01 \x01(\t\"7\n\x13\x43redentialsResponse\x12\x10\n\x08Username\x18\x01 \x01(\t\x12\x0e\n\x06Secret\x18\x02 \x01(\t\"c\n\x11\x46\x65tchTokenRequest\x12\x10\n\x08\x43lientID\x18\x01 \x01(\t\x12\x0c\n\x04Host\x18\x02 \x01(\t\x12\r\n\x05Realm\x18\x03 \x01(\t\x12\x0f\n\x07Service\x18\x04 \x01(\t\x12\x0e\n\x06Scopes\x18\x05 \x03(\t\"H\n\x12\x46\x65tchTokenResponse\x12\r\n\x05Token\x18\x01 \x01(\t\x12\x11\n\tExpiresIn\x18\x02 \x01(\x03\x12\x10\n\x08IssuedAt\x18\x03 \x01(\x03\"6\n\x18GetTokenAuthorityRequest\x12\x0c\n\x04Host\x18\x01 \x01(\t\x12\x0c\n\x04Salt\x18\x02 \x01(\x0c\".\n\x19GetTokenAuthorityResponse\x12\x11\n\tPublicKey\x18\x01 \x01(\x0c\"J\n\x1bVerifyTokenAuthorityRequest\x12\x0c\n\x04Host\x18\x01 \x01(\t\x12\x0f\n\x07Payload\x18\x02 \x01(\x0c\x12\x0c\n\x04Salt\x18\x03 \x01(\x0c\".\n\x1cVerifyTokenAuthorityResponse\x12\x0e\n\x06Signed\x18\x01 \x01(\x0c\x32\xa0\x03\n\x04\x41uth\x12Z\n\x0b\x43redentials\x12$.moby.filesync.v1.CredentialsRequest\x1a%.moby.filesync.v1.CredentialsResponse\x12W\n\nFetchToken\x12#.moby.filesync.v1.FetchTokenRequest\x1a$.moby.filesync.v1.FetchTokenResponse\x12l\n\x11GetTokenAuthority\x12*.moby.filesync.v1.GetTokenAuthorityRequest\x1a+.moby.filesync.v1.GetTokenAuthorityResponse\x12u\n\x14VerifyTokenAuthority\x12-.moby.filesync.v1.VerifyTokenAuthorityRequest\x1a..moby.filesync.v1.VerifyTokenAuthorityResponseb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.auth_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_CREDENTIALSREQUEST']._serialized_start=50
  _globals['_CREDENTIALSREQUEST']._serialized_end=84
  _globals['_CREDENTIALSRESPONSE']._serialized_start=86
  _globals['_CREDENTIALSRESPONSE']._serialized_end=141
  _globals['_FETCHTOKENREQUEST']._serialized_start=143
  _globals['_FETCHTOKENREQUEST']._serialized_end=242
  _globals['_FETCHTOKENRESPONSE']._serialized_start=244
  _globals['_FETCHTOKENRESPONSE']._serialized_end=316
  _globals['_GETTOKENAUTHORITYREQUEST']._serialized_start=318
  _globals['_GETTOKENAUTHORITYREQUEST']._serialized_end=372
  _globals['_GETTOKENAUTHORITYRESPONSE']._serialized_start=374
  _globals['_GETTOKENAUTHORITYRESPONSE']._serialized_end=420
  _globals['_VERIFYTOKENAUTHORITYREQUEST']._serialized_start=422
  _globals['_VERIFYTOKENAUTHORITYREQUEST']._serialized_end=496
  _globals['_VERIFYTOKENAUTHORITYRESPONSE']._serialized_start=498
  _globals['_VERIFYTOKENAUTHORITYRESPONSE']._serialized_end=544
  _globals['_AUTH']._serialized_start=547
  _globals['_AUTH']._serialized_end=963
