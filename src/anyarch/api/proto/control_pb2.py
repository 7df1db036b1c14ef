# Made by tools/generate_proto.py; do not edit.
from google.protobuf import descriptor as _descriptor
from anyarch.api.proto.pool import POOL as _POOL
from google.protobuf import symbol_database as _symbol_database
from google.protobuf.internal import builder as _builder
_sym_db = _symbol_database.Default()
from anyarch.api.proto import rpcstatus_pb2 as anyarch_dot_api_dot_proto_dot_rpcstatus__pb2
from anyarch.api.proto import wellknown_pb2 as anyarch_dot_api_dot_proto_dot_wellknown__pb2
from anyarch.api.proto import llb_pb2 as anyarch_dot_api_dot_proto_dot_llb__pb2
from anyarch.api.proto import sourcepolicy_pb2 as anyarch_dot_api_dot_proto_dot_sourcepolicy__pb2
from anyarch.api.proto import worker_pb2 as anyarch_dot_api_dot_proto_dot_worker__pb2
DESCRIPTOR = _POOL.AddSerializedFile(b'\n\x1f\x61nyarch/api/proto/control.proto\x12\x10moby.buildkit.v1\x1a!anyarch/api/proto/rpcstatus.proto\x1a!anyarch/api/proto/wellknown.proto\x1a\x1b\x61nyarch/api/proto/llb.proto\x1a$anyarch/api/proto/sourcepolicy.proto\x1a\x1e\x61nyarch/api/proto/worker.proto\"\x84\x01\n\x0cPruneRequest\x12\x0e\n\x06\x66ilter\x18\x01 \x03(\t\x12\x0b\n\x03\x61ll\x18\x02 \x01(\x08\x12\x14\n\x0ckeepDuration\x18\x03 \x01(\x03\x12\x15\n\rreservedSpace\x18\x04 \x01(\x03\x12\x14\n\x0cmaxUsedSpace\x18\x05 \x01(\x03\x12\x14\n\x0cminFreeSpace\x18\x06 \x01(\x03\"4\n\x10\x44iskUsageRequest\x12\x0e\n\x06\x66ilter\x18\x01 \x03(\t\x12\x10\n\x08\x61geLimit\x18\x02 \x01(\x03\"B\n\x11\x44iskUsageResponse\x12-\n\x06record\x18\x01 \x03(\x0b\x32\x1d.moby.buildkit.v1.UsageRecord\"\x94\x02\n\x0bUsageRecord\x12\n\n\x02ID\x18\x01 \x01(\t\x12\x0f\n\x07Mutable\x18\x02 \x01(\x08\x12\r\n\x05InUse\x18\x03 \x01(\x08\x12\x0c\n\x04Size\x18\x04 \x01(\x03\x12\x0e\n\x06Parent\x18\x05 \x01(\t\x12-\n\tCreatedAt\x18\x06 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12.\n\nLastUsedAt\x18\x07 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12\x12\n\nUsageCount\x18\x08 \x01(\x03\x12\x13\n\x0b\x44\x65scription\x18\t \x01(\t\x12\x12\n\nRecordType\x18\n \x01(\t\x12\x0e\n\x06Shared\x18\x0b \x01(\x08\x12\x0f\n\x07Parents\x18\x0c \x03(\t\"\xe2\x06\n\x0cSolveRequest\x12\x0b\n\x03Ref\x18\x01 \x01(\t\x12\"\n\nDefinition\x18\x02 \x01(\x0b\x32\x0e.pb.Definition\x12\x1a\n\x12\x45xporterDeprecated\x18\x03 \x01(\t\x12\\\n\x17\x45xporterAttrsDeprecated\x18\x04 \x03(\x0b\x32;.moby.buildkit.v1.SolveRequest.ExporterAttrsDeprecatedEntry\x12\x0f\n\x07Session\x18\x05 \x01(\t\x12\x10\n\x08\x46rontend\x18\x06 \x01(\t\x12H\n\rFrontendAttrs\x18\x07 \x03(\x0b\x32\x31.moby.buildkit.v1.SolveRequest.FrontendAttrsEntry\x12-\n\x05\x43\x61\x63he\x18\x08 \x01(\x0b\x32\x1e.moby.buildkit.v1.CacheOptions\x12\x14\n\x0c\x45ntitlements\x18\t \x03(\t\x12J\n\x0e\x46rontendInputs\x18\n \x03(\x0b\x32\x32.moby.buildkit.v1.SolveRequest.FrontendInputsEntry\x12\x10\n\x08Internal\x18\x0b \x01(\x08\x12;\n\x0cSourcePolicy\x18\x0c \x01(\x0b\x32%.moby.buildkit.v1.sourcepolicy.Policy\x12-\n\tExporters\x18\r \x03(\x0b\x32\x1a.moby.buildkit.v1.Exporter\x12\x1d\n\x15\x45nableSessionExporter\x18\x0e \x01(\x08\x12\x1b\n\x13SourcePolicySession\x18\x0f \x01(\t\x12\x1c\n\x14\x43ompatibilityVersion\x18\x10 \x01(\x03\x12\x14\n\x0cProxyNetwork\x18\x11 \x01(\x08\x1a>\n\x1c\x45xporterAttrsDeprecatedEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\x1a\x34\n\x12\x46rontendAttrsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\x1a\x45\n\x13\x46rontendInputsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\x1d\n\x05value\x18\x02 \x01(\x0b\x32\x0e.pb.Definition:\x02\x38\x01\"\xcd\x02\n\x0c\x43\x61\x63heOptions\x12\x1b\n\x13\x45xportRefDeprecated\x18\x01 \x01(\t\x12\x1c\n\x14ImportRefsDeprecated\x18\x02 \x03(\t\x12X\n\x15\x45xportAttrsDeprecated\x18\x03 \x03(\x0b\x32\x39.moby.buildkit.v1.CacheOptions.ExportAttrsDeprecatedEntry\x12\x34\n\x07\x45xports\x18\x04 \x03(\x0b\x32#.moby.buildkit.v1.CacheOptionsEntry\x12\x34\n\x07Imports\x18\x05 \x03(\x0b\x32#.moby.buildkit.v1.CacheOptionsEntry\x1a<\n\x1a\x45xportAttrsDeprecatedEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\x8e\x01\n\x11\x43\x61\x63heOptionsEntry\x12\x0c\n\x04Type\x18\x01 \x01(\t\x12=\n\x05\x41ttrs\x18\x02 \x03(\x0b\x32..moby.buildkit.v1.CacheOptionsEntry.AttrsEntry\x1a,\n\nAttrsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\x99\x01\n\rSolveResponse\x12O\n\x10\x45xporterResponse\x18\x01 \x03(\x0b\x32\x35.moby.buildkit.v1.SolveResponse.ExporterResponseEntry\x1a\x37\n\x15\x45xporterResponseEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\x1c\n\rStatusRequest\x12\x0b\n\x03Ref\x18\x01 \x01(\t\"\xcc\x01\n\x0eStatusResponse\x12*\n\x08vertexes\x18\x01 \x03(\x0b\x32\x18.moby.buildkit.v1.Vertex\x12\x30\n\x08statuses\x18\x02 \x03(\x0b\x32\x1e.moby.buildkit.v1.VertexStatus\x12)\n\x04logs\x18\x03 \x03(\x0b\x32\x1b.moby.buildkit.v1.VertexLog\x12\x31\n\x08warnings\x18\x04 \x03(\x0b\x32\x1f.moby.buildkit.v1.VertexWarning\"\xdb\x01\n\x06Vertex\x12\x0e\n\x06\x64igest\x18\x01 \x01(\t\x12\x0e\n\x06inputs\x18\x02 \x03(\t\x12\x0c\n\x04name\x18\x03 \x01(\t\x12\x0e\n\x06\x63\x61\x63hed\x18\x04 \x01(\x08\x12+\n\x07started\x18\x05 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12-\n\tcompleted\x18\x06 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12\r\n\x05\x65rror\x18\x07 \x01(\t\x12(\n\rprogressGroup\x18\x08 \x01(\x0b\x32\x11.pb.ProgressGroup\"\xe3\x01\n\x0cVertexStatus\x12\n\n\x02ID\x18\x01 \x01(\t\x12\x0e\n\x06vertex\x18\x02 \x01(\t\x12\x0c\n\x04name\x18\x03 \x01(\t\x12\x0f\n\x07\x63urrent\x18\x04 \x01(\x03\x12\r\n\x05total\x18\x05 \x01(\x03\x12-\n\ttimestamp\x18\x06 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12+\n\x07started\x18\x07 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12-\n\tcompleted\x18\x08 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\"g\n\tVertexLog\x12\x0e\n\x06vertex\x18\x01 \x01(\t\x12-\n\ttimestamp\x18\x02 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12\x0e\n\x06stream\x18\x03 \x01(\x03\x12\x0b\n\x03msg\x18\x04 \x01(\x0c\"\x93\x01\n\rVertexWarning\x12\x0e\n\x06vertex\x18\x01 \x01(\t\x12\r\n\x05level\x18\x02 \x01(\x03\x12\r\n\x05short\x18\x03 \x01(\x0c\x12\x0e\n\x06\x64\x65tail\x18\x04 \x03(\x0c\x12\x0b\n\x03url\x18\x05 \x01(\t\x12\x1c\n\x04info\x18\x06 \x01(\x0b\x32\x0e.pb.SourceInfo\x12\x19\n\x06ranges\x18\x07 \x03(\x0b\x32\t.pb.Range\"\x1c\n\x0c\x42ytesMessage\x12\x0c\n\x04\x64\x61ta\x18\x01 \x01(\x0c\"$\n\x12ListWorkersRequest\x12\x0e\n\x06\x66ilter\x18\x01 \x03(\t\"K\n\x13ListWorkersResponse\x12\x34\n\x06record\x18\x01 \x03(\x0b\x32$.moby.buildkit.v1.types.WorkerRecord\"\r\n\x0bInfoRequest\"P\n\x0cInfoResponse\x12@\n\x0f\x62uildkitVersion\x18\x01 \x01(\x0b\x32\'.moby.buildkit.v1.types.BuildkitVersion\"h\n\x13\x42uildHistoryRequest\x12\x12\n\nActiveOnly\x18\x01 \x01(\x08\x12\x0b\n\x03Ref\x18\x02 \x01(\t\x12\x11\n\tEarlyExit\x18\x03 \x01(\x08\x12\x0e\n\x06\x46ilter\x18\x04 \x03(\t\x12\r\n\x05Limit\x18\x05 \x01(\x05\"\x80\x01\n\x11\x42uildHistoryEvent\x12\x35\n\x04type\x18\x01 \x01(\x0e\x32\'.moby.buildkit.v1.BuildHistoryEventType\x12\x34\n\x06record\x18\x02 \x01(\x0b\x32$.moby.buildkit.v1.BuildHistoryRecord\"\xd5\x07\n\x12\x42uildHistoryRecord\x12\x0b\n\x03Ref\x18\x01 \x01(\t\x12\x10\n\x08\x46rontend\x18\x02 \x01(\t\x12N\n\rFrontendAttrs\x18\x03 \x03(\x0b\x32\x37.moby.buildkit.v1.BuildHistoryRecord.FrontendAttrsEntry\x12-\n\tExporters\x18\x04 \x03(\x0b\x32\x1a.moby.buildkit.v1.Exporter\x12!\n\x05\x65rror\x18\x05 \x01(\x0b\x32\x12.google.rpc.Status\x12-\n\tCreatedAt\x18\x06 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12/\n\x0b\x43ompletedAt\x18\x07 \x01(\x0b\x32\x1a.google.protobuf.Timestamp\x12*\n\x04logs\x18\x08 \x01(\x0b\x32\x1c.moby.buildkit.v1.Descriptor\x12T\n\x10\x45xporterResponse\x18\t \x03(\x0b\x32:.moby.buildkit.v1.BuildHistoryRecord.ExporterResponseEntry\x12\x31\n\x06Result\x18\n \x01(\x0b\x32!.moby.buildkit.v1.BuildResultInfo\x12\x42\n\x07Results\x18\x0b \x03(\x0b\x32\x31.moby.buildkit.v1.BuildHistoryRecord.ResultsEntry\x12\x12\n\nGeneration\x18\x0c \x01(\x05\x12+\n\x05trace\x18\r \x01(\x0b\x32\x1c.moby.buildkit.v1.Descriptor\x12\x0e\n\x06pinned\x18\x0e \x01(\x08\x12\x16\n\x0enumCachedSteps\x18\x0f \x01(\x05\x12\x15\n\rnumTotalSteps\x18\x10 \x01(\x05\x12\x19\n\x11numCompletedSteps\x18\x11 \x01(\x05\x12\x33\n\rexternalError\x18\x12 \x01(\x0b\x32\x1c.moby.buildkit.v1.Descriptor\x12\x13\n\x0bnumWarnings\x18\x13 \x01(\x05\x1a\x34\n\x12\x46rontendAttrsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\x1a\x37\n\x15\x45xporterResponseEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\x1aQ\n\x0cResultsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\x30\n\x05value\x18\x02 \x01(\x0b\x32!.moby.buildkit.v1.BuildResultInfo:\x02\x38\x01\"Z\n\x19UpdateBuildHistoryRequest\x12\x0b\n\x03Ref\x18\x01 \x01(\t\x12\x0e\n\x06Pinned\x18\x02 \x01(\x08\x12\x0e\n\x06\x44\x65lete\x18\x03 \x01(\x08\x12\x10\n\x08\x46inalize\x18\x04 \x01(\x08\"\x1c\n\x1aUpdateBuildHistoryResponse\"\xb6\x01\n\nDescriptor\x12\x12\n\nmedia_type\x18\x01 \x01(\t\x12\x0e\n\x06\x64igest\x18\x02 \x01(\t\x12\x0c\n\x04size\x18\x03 \x01(\x03\x12\x42\n\x0b\x61nnotations\x18\x05 \x03(\x0b\x32-.moby.buildkit.v1.Descriptor.AnnotationsEntry\x1a\x32\n\x10\x41nnotationsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01\"\x8c\x02\n\x0f\x42uildResultInfo\x12\x36\n\x10ResultDeprecated\x18\x01 \x01(\x0b\x32\x1c.moby.buildkit.v1.Descriptor\x12\x32\n\x0c\x41ttestations\x18\x02 \x03(\x0b\x32\x1c.moby.buildkit.v1.Descriptor\x12?\n\x07Results\x18\x03 \x03(\x0b\x32..moby.buildkit.v1.BuildResultInfo.ResultsEntry\x1aL\n\x0cResultsEntry\x12\x0b\n\x03key\x18\x01 \x01(\x03\x12+\n\x05value\x18\x02 \x01(\x0b\x32\x1c.moby.buildkit.v1.Descriptor:\x02\x38\x01\"|\n\x08\x45xporter\x12\x0c\n\x04Type\x18\x01 \x01(\t\x12\x34\n\x05\x41ttrs\x18\x02 \x03(\x0b\x32%.moby.buildkit.v1.Exporter.AttrsEntry\x1a,\n\nAttrsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x02\x38\x01*?\n\x15\x42uildHistoryEventType\x12\x0b\n\x07STARTED\x10\x00\x12\x0c\n\x08\x43OMPLETE\x10\x01\x12\x0b\n\x07\x44\x45LETED\x10\x02\x32\x89\x06\n\x07\x43ontrol\x12T\n\tDiskUsage\x12\".moby.buildkit.v1.DiskUsageRequest\x1a#.moby.buildkit.v1.DiskUsageResponse\x12H\n\x05Prune\x12\x1e.moby.buildkit.v1.PruneRequest\x1a\x1d.moby.buildkit.v1.UsageRecord0\x01\x12H\n\x05Solve\x12\x1e.moby.buildkit.v1.SolveRequest\x1a\x1f.moby.buildkit.v1.SolveResponse\x12M\n\x06Status\x12\x1f.moby.buildkit.v1.StatusRequest\x1a .moby.buildkit.v1.StatusResponse0\x01\x12M\n\x07Session\x12\x1e.moby.buildkit.v1.BytesMessage\x1a\x1e.moby.buildkit.v1.BytesMessage(\x01\x30\x01\x12Z\n\x0bListWorkers\x12$.moby.buildkit.v1.ListWorkersRequest\x1a%.moby.buildkit.v1.ListWorkersResponse\x12\x45\n\x04Info\x12\x1d.moby.buildkit.v1.InfoRequest\x1a\x1e.moby.buildkit.v1.InfoResponse\x12\x62\n\x12ListenBuildHistory\x12%.moby.buildkit.v1.BuildHistoryRequest\x1a#.moby.buildkit.v1.BuildHistoryEvent0\x01\x12o\n\x12UpdateBuildHistory\x12+.moby.buildkit.v1.UpdateBuildHistoryRequest\x1a,.moby.buildkit.v1.UpdateBuildHistoryResponseb\x06proto3')
_globals = globals()
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _globals)
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'anyarch.api.proto.control_pb2', _globals)
if not _descriptor._USE_C_DESCRIPTORS:
  DESCRIPTOR._loaded_options = None
  _globals['_SOLVEREQUEST_EXPORTERATTRSDEPRECATEDENTRY']._loaded_options = None
  _globals['_SOLVEREQUEST_EXPORTERATTRSDEPRECATEDENTRY']._serialized_options = b'8\001'
  _globals['_SOLVEREQUEST_FRONTENDATTRSENTRY']._loaded_options = None
  _globals['_SOLVEREQUEST_FRONTENDATTRSENTRY']._serialized_options = b'8\001'
  _globals['_SOLVEREQUEST_FRONTENDINPUTSENTRY']._loaded_options = None
  _globals['_SOLVEREQUEST_FRONTENDINPUTSENTRY']._serialized_options = b'8\001'
  _globals['_CACHEOPTIONS_EXPORTATTRSDEPRECATEDENTRY']._loaded_options = None
  _globals['_CACHEOPTIONS_EXPORTATTRSDEPRECATEDENTRY']._serialized_options = b'8\001'
  _globals['_CACHEOPTIONSENTRY_ATTRSENTRY']._loaded_options = None
  _globals['_CACHEOPTIONSENTRY_ATTRSENTRY']._serialized_options = b'8\001'
  _globals['_SOLVERESPONSE_EXPORTERRESPONSEENTRY']._loaded_options = None
  _globals['_SOLVERESPONSE_EXPORTERRESPONSEENTRY']._serialized_options = b'8\001'
  _globals['_BUILDHISTORYRECORD_FRONTENDATTRSENTRY']._loaded_options = None
  _globals['_BUILDHISTORYRECORD_FRONTENDATTRSENTRY']._serialized_options = b'8\001'
  _globals['_BUILDHISTORYRECORD_EXPORTERRESPONSEENTRY']._loaded_options = None
  _globals['_BUILDHISTORYRECORD_EXPORTERRESPONSEENTRY']._serialized_options = b'8\001'
  _globals['_BUILDHISTORYRECORD_RESULTSENTRY']._loaded_options = None
  _globals['_BUILDHISTORYRECORD_RESULTSENTRY']._serialized_options = b'8\001'
  _globals['_DESCRIPTOR_ANNOTATIONSENTRY']._loaded_options = None
  _globals['_DESCRIPTOR_ANNOTATIONSENTRY']._serialized_options = b'8\001'
  _globals['_BUILDRESULTINFO_RESULTSENTRY']._loaded_options = None
  _globals['_BUILDRESULTINFO_RESULTSENTRY']._serialized_options = b'8\001'
  _globals['_EXPORTER_ATTRSENTRY']._loaded_options = None
  _globals['_EXPORTER_ATTRSENTRY']._serialized_options = b'8\001'
  _globals['_BUILDHISTORYEVENTTYPE']._serialized_start=5375
  _globals['_BUILDHISTORYEVENTTYPE']._serialized_end=5438
  _globals['_PRUNEREQUEST']._serialized_start=223
  _globals['_PRUNEREQUEST']._serialized_end=355
  _globals['_DISKUSAGEREQUEST']._serialized_start=357
  _globals['_DISKUSAGEREQUEST']._serialized_end=409
  _globals['_DISKUSAGERESPONSE']._serialized_start=411
  _globals['_DISKUSAGERESPONSE']._serialized_end=477
  _globals['_USAGERECORD']._serialized_start=480
  _globals['_USAGERECORD']._serialized_end=756
  _globals['_SOLVEREQUEST']._serialized_start=759
  _globals['_SOLVEREQUEST']._serialized_end=1625
  _globals['_SOLVEREQUEST_EXPORTERATTRSDEPRECATEDENTRY']._serialized_start=1438
  _globals['_SOLVEREQUEST_EXPORTERATTRSDEPRECATEDENTRY']._serialized_end=1500
  _globals['_SOLVEREQUEST_FRONTENDATTRSENTRY']._serialized_start=1502
  _globals['_SOLVEREQUEST_FRONTENDATTRSENTRY']._serialized_end=1554
  _globals['_SOLVEREQUEST_FRONTENDINPUTSENTRY']._serialized_start=1556
  _globals['_SOLVEREQUEST_FRONTENDINPUTSENTRY']._serialized_end=1625
  _globals['_CACHEOPTIONS']._serialized_start=1628
  _globals['_CACHEOPTIONS']._serialized_end=1961
  _globals['_CACHEOPTIONS_EXPORTATTRSDEPRECATEDENTRY']._serialized_start=1901
  _globals['_CACHEOPTIONS_EXPORTATTRSDEPRECATEDENTRY']._serialized_end=1961
  _globals['_CACHEOPTIONSENTRY']._serialized_start=1964
  _globals['_CACHEOPTIONSENTRY']._serialized_end=2106
  _globals['_CACHEOPTIONSENTRY_ATTRSENTRY']._serialized_start=2062
  _globals['_CACHEOPTIONSENTRY_ATTRSENTRY']._serialized_end=2106
  _globals['_SOLVERESPONSE']._serialized_start=2109
  _globals['_SOLVERESPONSE']._serialized_end=2262
  _globals['_SOLVERESPONSE_EXPORTERRESPONSEENTRY']._serialized_start=2207
  _globals['_SOLVERESPONSE_EXPORTERRESPONSEENTRY']._serialized_end=2262
  _globals['_STATUSREQUEST']._serialized_start=2264
  _globals['_STATUSREQUEST']._serialized_end=2292
  _globals['_STATUSRESPONSE']._serialized_start=2295
  _globals['_STATUSRESPONSE']._serialized_end=2499
  _globals['_VERTEX']._serialized_start=2502
  _globals['_VERTEX']._serialized_end=2721
  _globals['_VERTEXSTATUS']._serialized_start=2724
  _globals['_VERTEXSTATUS']._serialized_end=2951
  _globals['_VERTEXLOG']._serialized_start=2953
  _globals['_VERTEXLOG']._serialized_end=3056
  _globals['_VERTEXWARNING']._serialized_start=3059
  _globals['_VERTEXWARNING']._serialized_end=3206
  _globals['_BYTESMESSAGE']._serialized_start=3208
  _globals['_BYTESMESSAGE']._serialized_end=3236
  _globals['_LISTWORKERSREQUEST']._serialized_start=3238
  _globals['_LISTWORKERSREQUEST']._serialized_end=3274
  _globals['_LISTWORKERSRESPONSE']._serialized_start=3276
  _globals['_LISTWORKERSRESPONSE']._serialized_end=3351
  _globals['_INFOREQUEST']._serialized_start=3353
  _globals['_INFOREQUEST']._serialized_end=3366
  _globals['_INFORESPONSE']._serialized_start=3368
  _globals['_INFORESPONSE']._serialized_end=3448
  _globals['_BUILDHISTORYREQUEST']._serialized_start=3450
  _globals['_BUILDHISTORYREQUEST']._serialized_end=3554
  _globals['_BUILDHISTORYEVENT']._serialized_start=3557
  _globals['_BUILDHISTORYEVENT']._serialized_end=3685
  _globals['_BUILDHISTORYRECORD']._serialized_start=3688
  _globals['_BUILDHISTORYRECORD']._serialized_end=4669
  _globals['_BUILDHISTORYRECORD_FRONTENDATTRSENTRY']._serialized_start=1502
  _globals['_BUILDHISTORYRECORD_FRONTENDATTRSENTRY']._serialized_end=1554
  _globals['_BUILDHISTORYRECORD_EXPORTERRESPONSEENTRY']._serialized_start=2207
  _globals['_BUILDHISTORYRECORD_EXPORTERRESPONSEENTRY']._serialized_end=2262
  _globals['_BUILDHISTORYRECORD_RESULTSENTRY']._serialized_start=4588
  _globals['_BUILDHISTORYRECORD_RESULTSENTRY']._serialized_end=4669
  _globals['_UPDATEBUILDHISTORYREQUEST']._serialized_start=4671
  _globals['_UPDATEBUILDHISTORYREQUEST']._serialized_end=4761
  _globals['_UPDATEBUILDHISTORYRESPONSE']._serialized_start=4763
  _globals['_UPDATEBUILDHISTORYRESPONSE']._serialized_end=4791
  _globals['_DESCRIPTOR']._serialized_start=4794
  _globals['_DESCRIPTOR']._serialized_end=4976
  _globals['_DESCRIPTOR_ANNOTATIONSENTRY']._serialized_start=4926
  _globals['_DESCRIPTOR_ANNOTATIONSENTRY']._serialized_end=4976
  _globals['_BUILDRESULTINFO']._serialized_start=4979
  _globals['_BUILDRESULTINFO']._serialized_end=5247
  _globals['_BUILDRESULTINFO_RESULTSENTRY']._serialized_start=5171
  _globals['_BUILDRESULTINFO_RESULTSENTRY']._serialized_end=5247
  _globals['_EXPORTER']._serialized_start=5249
  _globals['_EXPORTER']._serialized_end=5373
  _globals['_EXPORTER_ATTRSENTRY']._serialized_start=2062
  _globals['_EXPORTER_ATTRSENTRY']._serialized_end=2106
  _globals['_CONTROL']._serialized_start=5441
  _globals['_CONTROL']._serialized_end=6218
