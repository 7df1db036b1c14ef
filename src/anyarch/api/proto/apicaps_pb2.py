# Made by tools/generate_proto.py; do not edit.
from anyarch.api.proto.pool import make as _make
DESCRIPTOR = _make(b'\n\x1f\x61nyarch/api/proto/apicaps.proto\x12\x18moby.buildkit.v1.apicaps\"\x89\x01\n\x06\x41PICap\x12\n\n\x02ID\x18\x01 \x01(\t\x12\x0f\n\x07\x45nabled\x18\x02 \x01(\x08\x12\x12\n\nDeprecated\x18\x03 \x01(\x08\x12\x16\n\x0e\x44isabledReason\x18\x04 \x01(\t\x12\x19\n\x11\x44isabledReasonMsg\x18\x05 \x01(\t\x12\x1b\n\x13\x44isabledAlternative\x18\x06 \x01(\tb\x06proto3', globals())
