# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
from anyarch.api.proto import gateway_pb2 as anyarch_dot_api_dot_proto_dot_gateway__pb2
from anyarch.api.proto import llb_pb2 as anyarch_dot_api_dot_proto_dot_llb__pb2
from anyarch.api.proto import sourcepolicy_pb2 as anyarch_dot_api_dot_proto_dot_sourcepolicy__pb2
DESCRIPTOR = _POOL.AddSerializedFile(b'\n%anyarch/api/proto/policysession.proto\x12+moby.buildkit.v1.sourcepolicy.policysession\x1a\x1f\x61nyarch/api/proto/gateway.proto\x1a\x1b\x61nyarch/api/proto/llb.proto\x1a$anyarch/api/proto/sourcepolicy.proto\"\x80\x02\n\x12\x43heckPolicyRequest\x12\x1e\n\x08Platform\x18\x01 \x01(\x0b\x32\x0c.pb.Platform\x12\x44\n\x06Source\x18\x02 \x01(\x0b\x32\x34.moby.buildkit.v1.frontend.ResolveSourceMetaResponse\x12W\n\x04\x63\x61ps\x18\x03 \x03(\x0b\x32I.moby.buildkit.v1.sourcepolicy.policysession.CheckPolicyRequest.CapsEntry\x1a+\n\tCapsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\x08:\x02\x38\x01\"\xba\x01\n\x13\x43heckPolicyResponse\x12Q\n\x08\x64\x65\x63ision\x18\x01 \x01(\x0b\x32=.moby.buildkit.v1.sourcepolicy.policysession.DecisionResponseH\x00\x12\x46\n\x07request\x18\x02 \x01(\x0b\x32\x33.moby.buildkit.v1.frontend.ResolveSourceMetaRequestH\x00\x42\x08\n\x06result\"\xbd\x01\n\x10\x44\x65\x63isionResponse\x12;\n\x06\x61\x63tion\x18\x01 \x01(\x0e\x32+.moby.buildkit.v1.sourcepolicy.PolicyAction\x12N\n\x0c\x64\x65nyMessages\x18\x02 \x03(\x0b\x32\x38.moby.buildkit.v1.sourcepolicy.policysession.DenyMessage\x12\x1c\n\x06update\x18\x03 \x01(\x0b\x32\x0c.pb.SourceOp\"\x1e\n\x0b\x44\x65nyMessage\x12\x0f\n\x07message\x18\x01 \x01(\t2\xa3\x01\n\x0ePolicyVerifier\x12\x90\x01\n\x0b\x43heckPolicy\x12?.moby.buildkit.v1.sourcepolicy.policysession.CheckPolicyRequest\x1a@.moby.buildkit.v1.sourcepolicy.policysession.CheckPolicyResponseb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.policysession_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_CHECKPOLICYREQUEST_CAPSENTRY']._loaded_options = None
  _globals['_CHECKPOLICYREQUEST_CAPSENTRY']._serialized_options = b'8\001'
  _globals['_CHECKPOLICYREQUEST']._serialized_start=187
  _globals['_CHECKPOLICYREQUEST']._serialized_end=443
  _globals['_CHECKPOLICYREQUEST_CAPSENTRY']._serialized_start=400
  _globals['_CHECKPOLICYREQUEST_CAPSENTRY']._serialized_end=443
  _globals['_CHECKPOLICYRESPONSE']._serialized_start=446
  _globals['_CHECKPOLICYRESPONSE']._serialized_end=632
  _globals['_DECISIONRESPONSE']._serialized_start=635
  _globals['_DECISIONRESPONSE']._serialized_end=824
  _globals['_DENYMESSAGE']._serialized_start=826
  _globals['_DENYMESSAGE']._serialized_end=856
  _globals['_POLICYVERIFIER']._serialized_start=859
  _globals['_POLICYVERIFIER']._serialized_end=1022
