# Made by tools/generate_proto.py; do not edit.
from anyarch.api.proto.pool import make as _make
from anyarch.api.proto import fsutil_pb2 as anyarch_dot_api_dot_proto_dot_fsutil__pb2
DESCRIPTOR = _make(b'\n anyarch/api/proto/filesync.proto\x12\x10moby.filesync.v1\x1a\x1e\x61nyarch/api/proto/fsutil.proto\"\x1c\n\x0c\x42ytesMessage\x12\x0c\n\x04\x64\x61ta\x18\x01 \x01(\x0c\x32\x83\x01\n\x08\x46ileSync\x12:\n\x08\x44iffCopy\x12\x14.fsutil.types.Packet\x1a\x14.fsutil.types.Packet(\x01\x30\x01\x12;\n\tTarStream\x12\x14.fsutil.types.Packet\x1a\x14.fsutil.types.Packet(\x01\x30\x01\x32Z\n\x08\x46ileSend\x12N\n\x08\x44iffCopy\x12\x1e.moby.filesync.v1.BytesMessage\x1a\x1e.moby.filesync.v1.BytesMessage(\x01\x30\x01\x62\x06proto3', globals())
