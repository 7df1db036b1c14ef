# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1e\x61nyarch/api/proto/fsutil.proto\x12\x0c\x66sutil.types\"\xd3\x01\n\x06Packet\x12-\n\x04type\x18\x01 \x01(\x0e\x32\x1f.fsutil.types.Packet.PacketType\x12 \n\x04stat\x18\x02 \x01(\x0b\x32\x12.fsutil.types.Stat\x12\n\n\x02ID\x18\x03 \x01(\r\x12\x0c\n\x04\x64\x61ta\x18\x04 \x01(\x0c\"^\n\nPacketType\x12\x0f\n\x0bPACKET_STAT\x10\x00\x12\x0e\n\nPACKET_REQ\x10\x01\x12\x0f\n\x0bPACKET_DATA\x10\x02\x12\x0e\n\nPACKET_FIN\x10\x03\x12\x0e\n\nPACKET_ERR\x10\x04\"\xf0\x01\n\x04Stat\x12\x0c\n\x04path\x18\x01 \x01(\t\x12\x0c\n\x04mode\x18\x02 \x01(\r\x12\x0b\n\x03uid\x18\x03 \x01(\r\x12\x0b\n\x03gid\x18\x04 \x01(\r\x12\x0c\n\x04size\x18\x05 \x01(\x03\x12\x0f\n\x07modTime\x18\x06 \x01(\x03\x12\x10\n\x08linkname\x18\x07 \x01(\t\x12\x10\n\x08\x64\x65vmajor\x18\x08 \x01(\x03\x12\x10\n\x08\x64\x65vminor\x18\t \x01(\x03\x12.\n\x06xattrs\x18\n \x03(\x0b\x32\x1e.fsutil.types.Stat.XattrsEntry\x1a-\n\x0bXattrsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\x0c:\x02\x38\x01\x62\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.fsutil_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_STAT_XATTRSENTRY']._loaded_options = None
  _globals['_STAT_XATTRSENTRY']._serialized_options = b'8\001'
  _globals['_PACKET']._serialized_start=49
  _globals['_PACKET']._serialized_end=260
  _globals['_PACKET_PACKETTYPE']._serialized_start=166
  _globals['_PACKET_PACKETTYPE']._serialized_end=260
  _globals['_STAT']._serialized_start=263
  _globals['_STAT']._serialized_end=503
  _globals['_STAT_XATTRSENTRY']._serialized_start=458
  _globals['_STAT_XATTRSENTRY']._serialized_end=503
