# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
from anyarch.api.proto import llb_pb2 as anyarch_dot_api_dot_proto_dot_llb__pb2
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1f\x61nyarch/api/proto/errdefs.proto\x12\x07\x65rrdefs\x1a\x1b\x61nyarch/api/proto/llb.proto\"\x18\n\x06Vertex\x12\x0e\n\x06\x64igest\x18\x01 \x01(\t\"A\n\x06Source\x12\x1c\n\x04info\x18\x01 \x01(\x0b\x32\x0e.pb.SourceInfo\x12\x19\n\x06ranges\x18\x02 \x03(\x0b\x32\t.pb.Range\"(\n\x08\x46rontend\x12\x0c\n\x04name\x18\x01 \x01(\t\x12\x0e\n\x06source\x18\x02 \x01(\t\"\x1b\n\x0b\x46rontendCap\x12\x0c\n\x04name\x18\x01 \x01(\t\"8\n\x14\x43ompatibilityFeature\x12\x0f\n\x07version\x18\x01 \x01(\x03\x12\x0f\n\x07\x66\x65\x61ture\x18\x02 \x01(\t\"\x1a\n\nSubrequest\x12\x0c\n\x04name\x18\x01 \x01(\t\"\x81\x02\n\x05Solve\x12#\n\x04\x66ile\x18\x04 \x01(\x0b\x32\x13.errdefs.FileActionH\x00\x12&\n\x05\x63\x61\x63he\x18\x05 \x01(\x0b\x32\x15.errdefs.ContentCacheH\x00\x12\x10\n\x08inputIDs\x18\x01 \x03(\t\x12\x10\n\x08mountIDs\x18\x02 \x03(\t\x12\x12\n\x02op\x18\x03 \x01(\x0b\x32\x06.pb.Op\x12\x34\n\x0b\x64\x65scription\x18\x06 \x03(\x0b\x32\x1f.errdefs.Solve.DescriptionEntry\x1a\x32\n\x10\x44\x65scriptionEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\x42\t\n\x07subject\"\x1b\n\nFileAction\x12\r\n\x05index\x18\x01 \x01(\x03\"\x1d\n\x0c\x43ontentCache\x12\r\n\x05index\x18\x01 \x01(\x03\"Z\n\x1dProvenanceMaterialsIncomplete\x12\x39\n\nincomplete\x18\x01 \x03(\x0b\x32%.errdefs.ProvenanceMaterialIncomplete\"x\n\x1cProvenanceMaterialIncomplete\x12\n\n\x02op\x18\x01 \x01(\t\x12\x0c\n\x04name\x18\x02 \x01(\t\x12\x0e\n\x06method\x18\x03 \x01(\t\x12\x0b\n\x03uri\x18\x04 \x01(\t\x12\x11\n\tfinal_uri\x18\x05 \x01(\t\x12\x0e\n\x06reason\x18\x06 \x01(\tb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.errdefs_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_SOLVE_DESCRIPTIONENTRY']._loaded_options = None
  _globals['_SOLVE_DESCRIPTIONENTRY']._serialized_options = b'8\001'
  _globals['_VERTEX']._serialized_start=73
  _globals['_VERTEX']._serialized_end=97
  _globals['_SOURCE']._serialized_start=99
  _globals['_SOURCE']._serialized_end=164
  _globals['_FRONTEND']._serialized_start=166
  _globals['_FRONTEND']._serialized_end=206
  _globals['_FRONTENDCAP']._serialized_start=208
  _globals['_FRONTENDCAP']._serialized_end=235
  _globals['_COMPATIBILITYFEATURE']._serialized_start=237
  _globals['_COMPATIBILITYFEATURE']._serialized_end=293
  _globals['_SUBREQUEST']._serialized_start=295
  _globals['_SUBREQUEST']._serialized_end=321
  _globals['_SOLVE']._serialized_start=324
  _globals['_SOLVE']._serialized_end=581
  _globals['_SOLVE_DESCRIPTIONENTRY']._serialized_start=520
  _globals['_SOLVE_DESCRIPTIONENTRY']._serialized_end=570
  _globals['_FILEACTION']._serialized_start=583
  _globals['_FILEACTION']._serialized_end=610
  _globals['_CONTENTCACHE']._serialized_start=612
  _globals['_CONTENTCACHE']._serialized_end=641
  _globals['_PROVENANCEMATERIALSINCOMPLETE']._serialized_start=643
  _globals['_PROVENANCEMATERIALSINCOMPLETE']._serialized_end=733
  _globals['_PROVENANCEMATERIALINCOMPLETE']._serialized_start=735
  _globals['_PROVENANCEMATERIALINCOMPLETE']._serialized_end=855
