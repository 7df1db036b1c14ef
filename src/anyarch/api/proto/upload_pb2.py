# Made by tools/generate_proto.py; do not edit.
from anyarch.api.proto.pool import make as _make
DESCRIPTOR = _make(b'\n\x1e\x61nyarch/api/proto/upload.proto\x12\x0emoby.upload.v1\"\x1c\n\x0c\x42ytesMessage\x12\x0c\n\x04\x64\x61ta\x18\x01 \x01(\x0c\x32P\n\x06Upload\x12\x46\n\x04Pull\x12\x1c.moby.upload.v1.BytesMessage\x1a\x1c.moby.upload.v1.BytesMessage(\x01\x30\x01\x62\x06proto3', globals())
