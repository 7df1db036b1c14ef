# Made by tools/generate_proto.py; do not edit.
from anyarch.api.proto.pool import make as _make
from anyarch.api.proto import wellknown_pb2 as anyarch_dot_api_dot_proto_dot_wellknown__pb2
DESCRIPTOR = _make(b'\n!anyarch/api/proto/rpcstatus.proto\x12\ngoogle.rpc\x1a!anyarch/api/proto/wellknown.proto\"N\n\x06Status\x12\x0c\n\x04\x63ode\x18\x01 \x01(\x05\x12\x0f\n\x07message\x18\x02 \x01(\t\x12%\n\x07\x64\x65tails\x18\x03 \x03(\x0b\x32\x14.google.protobuf.Anyb\x06proto3', globals())
