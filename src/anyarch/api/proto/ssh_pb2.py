# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1b\x61nyarch/api/proto/ssh.proto\x12\x12moby.sshforward.v1\"\x1c\n\x0c\x42ytesMessage\x12\x0c\n\x04\x64\x61ta\x18\x01 \x01(\x0c\"\x1f\n\x11\x43heckAgentRequest\x12\n\n\x02ID\x18\x01 \x01(\t\"\x14\n\x12\x43heckAgentResponse2\xba\x01\n\x03SSH\x12[\n\nCheckAgent\x12%.moby.sshforward.v1.CheckAgentRequest\x1a&.moby.sshforward.v1.CheckAgentResponse\x12V\n\x0c\x46orwardAgent\x12 .moby.sshforward.v1.BytesMessage\x1a .moby.sshforward.v1.BytesMessage(\x01\x30\x01\x62\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.ssh_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_BYTESMESSAGE']._serialized_start=51
  _globals['_BYTESMESSAGE']._serialized_end=79
  _globals['_CHECKAGENTREQUEST']._serialized_start=81
  _globals['_CHECKAGENTREQUEST']._serialized_end=112
  _globals['_CHECKAGENTRESPONSE']._serialized_start=114
  _globals['_CHECKAGENTRESPONSE']._serialized_end=134
  _globals['_SSH']._serialized_start=137
  _globals['_SSH']._serialized_end=323
