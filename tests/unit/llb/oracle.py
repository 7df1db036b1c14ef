"""LLB messages in the protobuf runtime, from the field table of the protocol: the oracle of our own codec."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# number name:type, `*` repeated, `+` member of the message's oneof, map values behind `map:`
TABLE = """
Op: 1 inputs:Input*, 2 exec:ExecOp+, 3 source:SourceOp+, 4 file:FileOp+, 5 build:BuildOp+, 6 merge:MergeOp+, 7 diff:DiffOp+, 8 passthrough:PassthroughOp+, 10 platform:Platform, 11 constraints:WorkerConstraints
Platform: 1 Architecture:str, 2 OS:str, 3 Variant:str, 4 OSVersion:str, 5 OSFeatures:str*
Input: 1 digest:str, 2 index:i64
ExecOp: 1 meta:Meta, 2 mounts:Mount*, 3 network:i32, 4 security:i32, 5 secretenv:SecretEnv*, 6 cdiDevices:CDIDevice*
Meta: 1 args:str*, 2 env:str*, 3 cwd:str, 4 user:str, 5 proxy_env:ProxyEnv, 6 extraHosts:HostIP*, 7 hostname:str, 9 ulimit:Ulimit*, 10 cgroupParent:str, 11 removeMountStubsRecursive:bool, 12 validExitCodes:i32*
HostIP: 1 Host:str, 2 IP:str
Ulimit: 1 Name:str, 2 Soft:i64, 3 Hard:i64
SecretEnv: 1 ID:str, 2 name:str, 3 optional:bool
CDIDevice: 1 name:str, 2 optional:bool
Mount: 1 input:i64, 2 selector:str, 3 dest:str, 4 output:i64, 5 readonly:bool, 6 mountType:i32, 19 TmpfsOpt:TmpfsOpt, 20 cacheOpt:CacheOpt, 21 secretOpt:SecretOpt, 22 SSHOpt:SSHOpt, 23 resultID:str, 24 contentCache:i32
TmpfsOpt: 1 size:i64
CacheOpt: 1 ID:str, 2 sharing:i32
SecretOpt: 1 ID:str, 2 uid:u32, 3 gid:u32, 4 mode:u32, 5 optional:bool
SSHOpt: 1 ID:str, 2 uid:u32, 3 gid:u32, 4 mode:u32, 5 optional:bool
SourceOp: 1 identifier:str, 2 attrs:map:str
BuildOp: 1 builder:i64, 2 inputs:map:BuildInput, 4 attrs:map:str
BuildInput: 1 input:i64
OpMetadata: 1 ignore_cache:bool, 2 description:map:str, 4 export_cache:ExportCache, 5 caps:map:bool, 6 progress_group:ProgressGroup, 7 linux_resources:LinuxResources
Source: 1 locations:map:Locations, 2 infos:SourceInfo*
Locations: 1 locations:Location*
SourceInfo: 1 filename:str, 2 data:bytes, 4 language:str
Location: 1 sourceIndex:i32, 2 ranges:Range*
Range: 1 start:Position, 2 end:Position
Position: 1 line:i32, 2 character:i32
ExportCache: 1 Value:bool
ProgressGroup: 1 id:str, 2 name:str, 3 weak:bool
LinuxResources: 1 memory:i64, 2 memorySwap:i64, 3 cpuShares:u64, 4 cpuPeriod:u64, 5 cpuQuota:i64, 6 cpusetCpus:str, 7 cpusetMems:str
ProxyEnv: 1 http_proxy:str, 2 https_proxy:str, 3 ftp_proxy:str, 4 no_proxy:str, 5 all_proxy:str
WorkerConstraints: 1 filter:str*
Definition: 1 def:bytes*, 2 metadata:map:OpMetadata, 3 Source:Source
FileOp: 2 actions:FileAction*
FileAction: 1 input:i64, 2 secondaryInput:i64, 3 output:i64, 4 copy:FileActionCopy+, 5 mkfile:FileActionMkFile+, 6 mkdir:FileActionMkDir+, 7 rm:FileActionRm+, 8 symlink:FileActionSymlink+
FileActionCopy: 1 src:str, 2 dest:str, 3 owner:ChownOpt, 4 mode:i32, 5 followSymlink:bool, 6 dirCopyContents:bool, 7 attemptUnpackDockerCompatibility:bool, 8 createDestPath:bool, 9 allowWildcard:bool, 10 allowEmptyWildcard:bool, 11 timestamp:i64, 12 include_patterns:str*, 13 exclude_patterns:str*, 14 alwaysReplaceExistingDestPaths:bool, 15 modeStr:str, 16 required_paths:str*
FileActionMkFile: 1 path:str, 2 mode:i32, 3 data:bytes, 4 owner:ChownOpt, 5 timestamp:i64
FileActionSymlink: 1 oldpath:str, 2 newpath:str, 3 owner:ChownOpt, 4 timestamp:i64
FileActionMkDir: 1 path:str, 2 mode:i32, 3 makeParents:bool, 4 owner:ChownOpt, 5 timestamp:i64
FileActionRm: 1 path:str, 2 allowNotFound:bool, 3 allowWildcard:bool
ChownOpt: 1 user:UserOpt, 2 group:UserOpt
UserOpt: 1 byName:NamedUserOpt+, 2 byID:u32+
NamedUserOpt: 1 name:str, 2 input:i64
MergeInput: 1 input:i64
MergeOp: 1 inputs:MergeInput*
LowerDiffInput: 1 input:i64
UpperDiffInput: 1 input:i64
DiffOp: 1 lower:LowerDiffInput, 2 upper:UpperDiffInput
PassthroughOp: 1 id:str, 2 outputs:i64*
"""  # noqa: E501 - one message a line

_SCALARS = {"str": 9, "bytes": 12, "bool": 8, "i32": 5, "i64": 3, "u32": 13, "u64": 4}


def _field(message: Any, number: int, name: str, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=1)
    if kind.endswith("*"):
        field.label = 3
        kind = kind[:-1]
    elif kind.endswith("+"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
        kind = kind[:-1]
    if kind.startswith("map:"):
        entry_name = name[0].upper() + "".join(part.capitalize() for part in name[1:].split("_")) + "Entry"
        entry_name = "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _field(entry, 1, "key", "str")
        _field(entry, 2, "value", kind[4:])
        field.label = 3
        field.type = 11
        field.type_name = f".pb.{message.name}.{entry_name}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = 11
        field.type_name = f".pb.{kind}"


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="llb.proto", package="pb", syntax="proto3")
    for line in TABLE.strip().splitlines():
        name, _, fields = line.partition(": ")
        message = file.message_type.add(name=name)
        for item in fields.split(", "):
            number, _, rest = item.partition(" ")
            field, _, kind = rest.partition(":")
            _field(message, int(number), field, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def message(name: str) -> Any:
    """An empty message of package `pb`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"pb.{name}"))()


def canonical(op: Any) -> bytes:
    """The bytes Go makes of an `Op`: its oneof member behind all other fields."""
    rest, choice = message("Op"), message("Op")
    rest.CopyFrom(op)
    which = op.WhichOneof("choice")
    if which:
        rest.ClearField(which)
        getattr(choice, which).CopyFrom(getattr(op, which))
    return rest.SerializeToString(deterministic=True) + choice.SerializeToString(deterministic=True)
