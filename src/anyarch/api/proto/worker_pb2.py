# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
from anyarch.api.proto import llb_pb2 as anyarch_dot_api_dot_proto_dot_llb__pb2
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1e\x61nyarch/api/proto/worker.proto\x12\x16moby.buildkit.v1.types\x1a\x1b\x61nyarch/api/proto/llb.proto\"\xd9\x02\n\x0cWorkerRecord\x12\n\n\x02ID\x18\x01 \x01(\t\x12@\n\x06Labels\x18\x02 \x03(\x0b\x32\x30.moby.buildkit.v1.types.WorkerRecord.LabelsEntry\x12\x1f\n\tplatforms\x18\x03 \x03(\x0b\x32\x0c.pb.Platform\x12\x32\n\x08GCPolicy\x18\x04 \x03(\x0b\x32 .moby.buildkit.v1.types.GCPolicy\x12@\n\x0f\x42uildkitVersion\x18\x05 \x01(\x0b\x32\'.moby.buildkit.v1.types.BuildkitVersion\x12\x35\n\nCDIDevices\x18\x06 \x03(\x0b\x32!.moby.buildkit.v1.types.CDIDevice\x1a-\n\x0bLabelsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\x81\x01\n\x08GCPolicy\x12\x0b\n\x03\x61ll\x18\x01 \x01(\x08\x12\x14\n\x0ckeepDuration\x18\x02 \x01(\x03\x12\x15\n\rreservedSpace\x18\x03 \x01(\x03\x12\x0f\n\x07\x66ilters\x18\x04 \x03(\t\x12\x14\n\x0cmaxUsedSpace\x18\x05 \x01(\x03\x12\x14\n\x0cminFreeSpace\x18\x06 \x01(\x03\"`\n\x0f\x42uildkitVersion\x12\x0f\n\x07package\x18\x01 \x01(\t\x12\x0f\n\x07version\x18\x02 \x01(\t\x12\x10\n\x08revision\x18\x03 \x01(\t\x12\x19\n\x11\x64ockerfileVersion\x18\x04 \x01(\t\"\xbb\x01\n\tCDIDevice\x12\x0c\n\x04Name\x18\x01 \x01(\t\x12\x11\n\tAutoAllow\x18\x02 \x01(\x08\x12G\n\x0b\x41nnotations\x18\x03 \x03(\x0b\x32\x32.moby.buildkit.v1.types.CDIDevice.AnnotationsEntry\x12\x10\n\x08OnDemand\x18\x04 \x01(\x08\x1a\x32\n\x10\x41nnotationsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\x62\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.worker_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_WORKERRECORD_LABELSENTRY']._loaded_options = None
  _globals['_WORKERRECORD_LABELSENTRY']._serialized_options = b'8\001'
  _globals['_CDIDEVICE_ANNOTATIONSENTRY']._loaded_options = None
  _globals['_CDIDEVICE_ANNOTATIONSENTRY']._serialized_options = b'8\001'
  _globals['_WORKERRECORD']._serialized_start=88
  _globals['_WORKERRECORD']._serialized_end=433
  _globals['_WORKERRECORD_LABELSENTRY']._serialized_start=388
  _globals['_WORKERRECORD_LABELSENTRY']._serialized_end=433
  _globals['_GCPOLICY']._serialized_start=436
  _globals['_GCPOLICY']._serialized_end=565
  _globals['_BUILDKITVERSION']._serialized_start=567
  _globals['_BUILDKITVERSION']._serialized_end=663
  _globals['_CDIDEVICE']._serialized_start=666
  _globals['_CDIDEVICE']._serialized_end=853
  _globals['_CDIDEVICE_ANNOTATIONSENTRY']._serialized_start=803
  _globals['_CDIDEVICE_ANNOTATIONSENTRY']._serialized_end=853
