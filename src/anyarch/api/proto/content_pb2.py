# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
from anyarch.api.proto import wellknown_pb2 as anyarch_dot_api_dot_proto_dot_wellknown__pb2
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1f\x61nyarch/api/proto/content.proto\x12\x1e\x63ontainerd.services.content.v1\x1a!anyarch/api/proto/wellknown.proto\"\xf5\x01\n\x04Info\x12\x0e\n\x06\x64igest\x18\x01 \x01(\t\x12\x0c\n\x04size\x18\x02 \x01(\x03\x12.\n\ncreated_at\x18\x03 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12.\n\nupdated_at\x18\x04 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12@\n\x06labels\x18\x05 \x03(\x0b\x32\x30.containerd.services.content.v1.Info.LabelsEntry\x1a-\n\x0bLabelsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\x1d\n\x0bInfoRequest\x12\x0e\n\x06\x64igest\x18\x01 \x01(\t\"B\n\x0cInfoResponse\x12\x32\n\x04info\x18\x01 \x01(\x0b\x32$.containerd.services.content.v1.Info\"t\n\rUpdateRequest\x12\x32\n\x04info\x18\x01 \x01(\x0b\x32$.containerd.services.content.v1.Info\x12/\n\x0bupdate_mask\x18\x02 \x01(\x0b\x32\x1a.google.protobuf.FieldMask\"D\n\x0eUpdateResponse\x12\x32\n\x04info\x18\x01 \x01(\x0b\x32$.containerd.services.content.v1.Info\"%\n\x12ListContentRequest\x12\x0f\n\x07\x66ilters\x18\x01 \x03(\t\"I\n\x13ListContentResponse\x12\x32\n\x04info\x18\x01 \x03(\x0b\x32$.containerd.services.content.v1.Info\"&\n\x14\x44\x65leteContentRequest\x12\x0e\n\x06\x64igest\x18\x01 \x01(\t\"B\n\x12ReadContentRequest\x12\x0e\n\x06\x64igest\x18\x01 \x01(\t\x12\x0e\n\x06offset\x18\x02 \x01(\x03\x12\x0c\n\x04size\x18\x03 \x01(\x03\"3\n\x13ReadContentResponse\x12\x0e\n\x06offset\x18\x01 \x01(\x03\x12\x0c\n\x04\x64\x61ta\x18\x02 \x01(\x0c\"\xa6\x01\n\x06Status\x12.\n\nstarted_at\x18\x01 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12.\n\nupdated_at\x18\x02 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12\x0b\n\x03ref\x18\x03 \x01(\t\x12\x0e\n\x06offset\x18\x04 \x01(\x03\x12\r\n\x05total\x18\x05 \x01(\x03\x12\x10\n\x08\x65xpected\x18\x06 \x01(\t\"\x1c\n\rStatusRequest\x12\x0b\n\x03ref\x18\x01 \x01(\t\"H\n\x0eStatusResponse\x12\x36\n\x06status\x18\x01 \x01(\x0b\x32&.containerd.services.content.v1.Status\"&\n\x13ListStatusesRequest\x12\x0f\n\x07\x66ilters\x18\x01 \x03(\t\"P\n\x14ListStatusesResponse\x12\x38\n\x08statuses\x18\x01 \x03(\x0b\x32&.containerd.services.content.v1.Status\"\x9e\x02\n\x13WriteContentRequest\x12;\n\x06\x61\x63tion\x18\x01 \x01(\x0e\x32+.containerd.services.content.v1.WriteAction\x12\x0b\n\x03ref\x18\x02 \x01(\t\x12\r\n\x05total\x18\x03 \x01(\x03\x12\x10\n\x08\x65xpected\x18\x04 \x01(\t\x12\x0e\n\x06offset\x18\x05 \x01(\x03\x12\x0c\n\x04\x64\x61ta\x18\x06 \x01(\x0c\x12O\n\x06labels\x18\x07 \x03(\x0b\x32?.containerd.services.content.v1.WriteContentRequest.LabelsEntry\x1a-\n\x0bLabelsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\xe2\x01\n\x14WriteContentResponse\x12;\n\x06\x61\x63tion\x18\x01 \x01(\x0e\x32+.containerd.services.content.v1.WriteAction\x12.\n\nstarted_at\x18\x02 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12.\n\nupdated_at\x18\x03 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12\x0e\n\x06offset\x18\x04 \x01(\x03\x12\r\n\x05total\x18\x05 \x01(\x03\x12\x0e\n\x06\x64igest\x18\x06 \x01(\t\"\x1b\n\x0c\x41\x62ortRequest\x12\x0b\n\x03ref\x18\x01 \x01(\t*.\n\x0bWriteAction\x12\x08\n\x04STAT\x10\x00\x12\t\n\x05WRITE\x10\x01\x12\n\n\x06\x43OMMIT\x10\x02\x32\xbe\x07\n\x07\x43ontent\x12\x61\n\x04Info\x12+.containerd.services.content.v1.InfoRequest\x1a,.containerd.services.content.v1.InfoResponse\x12g\n\x06Update\x12-.containerd.services.content.v1.UpdateRequest\x1a..containerd.services.content.v1.UpdateResponse\x12q\n\x04List\x12\x32.containerd.services.content.v1.ListContentRequest\x1a\x33.containerd.services.content.v1.ListContentResponse0\x01\x12V\n\x06\x44\x65lete\x12\x34.containerd.services.content.v1.DeleteContentRequest\x1a\x16.google.protobuf.Empty\x12q\n\x04Read\x12\x32.containerd.services.content.v1.ReadContentRequest\x1a\x33.containerd.services.content.v1.ReadContentResponse0\x01\x12g\n\x06Status\x12-.containerd.services.content.v1.StatusRequest\x1a..containerd.services.content.v1.StatusResponse\x12y\n\x0cListStatuses\x12\x33.containerd.services.content.v1.ListStatusesRequest\x1a\x34.containerd.services.content.v1.ListStatusesResponse\x12v\n\x05Write\x12\x33.containerd.services.content.v1.WriteContentRequest\x1a\x34.containerd.services.content.v1.WriteContentResponse(\x01\x30\x01\x12M\n\x05\x41\x62ort\x12,.containerd.services.content.v1.AbortRequest\x1a\x16.google.protobuf.Emptyb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.content_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_INFO_LABELSENTRY']._loaded_options = None
  _globals['_INFO_LABELSENTRY']._serialized_options = b'8\001'
  _globals['_WRITECONTENTREQUEST_LABELSENTRY']._loaded_options = None
  _globals['_WRITECONTENTREQUEST_LABELSENTRY']._serialized_options = b'8\001'
  _globals['_WRITEACTION']._serialized_start=1854
  _globals['_WRITEACTION']._serialized_end=1900
  _globals['_INFO']._serialized_start=103
  _globals['_INFO']._serialized_end=348
  _globals['_INFO_LABELSENTRY']._serialized_start=303
  _globals['_INFO_LABELSENTRY']._serialized_end=348
  _globals['_INFOREQUEST']._serialized_start=350
  _globals['_INFOREQUEST']._serialized_end=379
  _globals['_INFORESPONSE']._serialized_start=381
  _globals['_INFORESPONSE']._serialized_end=447
  _globals['_UPDATEREQUEST']._serialized_start=449
  _globals['_UPDATEREQUEST']._serialized_end=565
  _globals['_UPDATERESPONSE']._serialized_start=567
  _globals['_UPDATERESPONSE']._serialized_end=635
  _globals['_LISTCONTENTREQUEST']._serialized_start=637
  _globals['_LISTCONTENTREQUEST']._serialized_end=674
  _globals['_LISTCONTENTRESPONSE']._serialized_start=676
  _globals['_LISTCONTENTRESPONSE']._serialized_end=749
  _globals['_DELETECONTENTREQUEST']._serialized_start=751
  _globals['_DELETECONTENTREQUEST']._serialized_end=789
  _globals['_READCONTENTREQUEST']._serialized_start=791
  _globals['_READCONTENTREQUEST']._serialized_end=857
  _globals['_READCONTENTRESPONSE']._serialized_start=859
  _globals['_READCONTENTRESPONSE']._serialized_end=910
  _globals['_STATUS']._serialized_start=913
  _globals['_STATUS']._serialized_end=1079
  _globals['_STATUSREQUEST']._serialized_start=1081
  _globals['_STATUSREQUEST']._serialized_end=1109
  _globals['_STATUSRESPONSE']._serialized_start=1111
  _globals['_STATUSRESPONSE']._serialized_end=1183
  _globals['_LISTSTATUSESREQUEST']._serialized_start=1185
  _globals['_LISTSTATUSESREQUEST']._serialized_end=1223
  _globals['_LISTSTATUSESRESPONSE']._serialized_start=1225
  _globals['_LISTSTATUSESRESPONSE']._serialized_end=1305
  _globals['_WRITECONTENTREQUEST']._serialized_start=1308
  _globals['_WRITECONTENTREQUEST']._serialized_end=1594
  _globals['_WRITECONTENTREQUEST_LABELSENTRY']._serialized_start=303
  _globals['_WRITECONTENTREQUEST_LABELSENTRY']._serialized_end=348
  _globals['_WRITECONTENTRESPONSE']._serialized_start=1597
  _globals['_WRITECONTENTRESPONSE']._serialized_end=1823
  _globals['_ABORTREQUEST']._serialized_start=1825
  _globals['_ABORTREQUEST']._serialized_end=1852
  _globals['_CONTENT']._serialized_start=1903
  _globals['_CONTENT']._serialized_end=2861
