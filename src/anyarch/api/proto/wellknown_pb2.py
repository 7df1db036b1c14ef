# Made by tools/generate_proto.py; do not edit.
from anyarch.api.proto.pool import make as _make
DESCRIPTOR = _make(b'\n!anyarch/api/proto/wellknown.proto\x12\x0fgoogle.protobuf\"+\n\tTimestamp\x12\x0f\n\x07seconds\x18\x01 \x01(\x03\x12\r\n\x05nanos\x18\x02 \x01(\x05\"&\n\x03\x41ny\x12\x10\n\x08type_url\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\x0c\"\x07\n\x05\x45mpty\"\x1a\n\tFieldMask\x12\r\n\x05paths\x18\x01 \x03(\tb\x06proto3', globals())
