"""One op of each kind with every field set, and the digest that BuildKit's Go client computes for it."""

from __future__ import annotations

import pytest

from anyarch.llb.ops import (
    ActionCopy,
    ActionMkdir,
    ActionMkfile,
    ActionRm,
    ActionSymlink,
    BuildOp,
    CacheOpt,
    CacheSharing,
    CDIDevice,
    Chown,
    ContentCache,
    DiffOp,
    ExecOp,
    FileAction,
    FileOp,
    HostIP,
    Input,
    MergeOp,
    Meta,
    Mount,
    MountType,
    NetMode,
    Op,
    PassthroughOp,
    ProxyEnv,
    SecretEnv,
    SecretOpt,
    SecurityMode,
    SourceOp,
    SSHOpt,
    TmpfsOpt,
    Ulimit,
    UserByName,
)
from anyarch.llb.wire import op_digest
from anyarch.spec.platform import Platform

INPUTS = (Input("sha256:aa", 1),)
PLATFORM = Platform("linux", "arm", "v7", "1", ("f",))

SOURCE = SourceOp("git://h/r#main", {"git.fullurl": "https://h/r", "git.bundle": "x", "a": ""})
EXEC = ExecOp(
    Meta(
        args=("a", ""),
        env=("A=1",),
        cwd="/w",
        user="u",
        proxy_env=ProxyEnv(http_proxy="h", all_proxy="a"),
        extra_hosts=(HostIP("h", "1.2.3.4"),),
        hostname="hn",
        ulimits=(Ulimit("nofile", -1, 5),),
        cgroup_parent="cg",
        remove_mount_stubs_recursive=True,
        valid_exit_codes=(0, 3, -1),
    ),
    (
        Mount("/", 0, output=0),
        Mount("/c", readonly=True, mount_type=MountType.CACHE, cache_opt=CacheOpt("id", CacheSharing.LOCKED)),
        Mount("/s", output=0, mount_type=MountType.SECRET, secret_opt=SecretOpt("s", 1, 2, 0o400, True)),
        Mount("/a", output=0, mount_type=MountType.SSH, ssh_opt=SSHOpt("default", mode=0o600)),
        Mount("/t", mount_type=MountType.TMPFS, tmpfs_opt=TmpfsOpt(4096)),
        Mount("/m", 0, "/x", 1, result_id="r", content_cache=ContentCache.ON),
    ),
    NetMode.NONE,
    SecurityMode.INSECURE,
    (SecretEnv("i", "n", True),),
    (CDIDevice("v/d=x", True),),
)
FILE = FileOp(
    (
        FileAction(ActionMkdir("/d", 0o755, True, Chown(0)), 0),
        FileAction(ActionMkfile("/f", 0o644, b"x", Chown(None, UserByName("g", 0)), 5), 1),
        FileAction(ActionSymlink("f", "/l"), 2),
        FileAction(ActionRm("/f", True, True), 3),
        FileAction(
            ActionCopy(
                "/a",
                "/b/",
                mode_str="u+x",
                follow_symlink=True,
                dir_copy_contents=True,
                attempt_unpack_docker_compat=True,
                create_dest_path=True,
                allow_wildcard=True,
                allow_empty_wildcard=True,
                include_patterns=("i",),
                exclude_patterns=("e",),
                required_paths=("r",),
                always_replace_existing_dest_paths=True,
            ),
            4,
            0,
            0,
        ),
    )
)
BUILD = BuildOp(-1, {"buildkit.llb.definition": 0}, {"llbbuild.filename": "f"})

KNOWN = {
    "source": (
        Op((), SOURCE, PLATFORM),
        "sha256:ab12aca7da44ed034fb0595046909b7625734859a370e7849d3a672a17b8d642",
    ),
    "exec": (
        Op(INPUTS, EXEC, PLATFORM),
        "sha256:a5b20091cb3013a86738deea3bd2ca7c667b341ea6de4f877eda17133daf86a0",
    ),
    "file": (Op(INPUTS, FILE), "sha256:9536a1dbf85e53a253cdc5017aecb7a6631ddcbb06100d09af3abaaac77a9b85"),
    "build": (Op(INPUTS, BUILD), "sha256:e782b8c41b9c74a49bf892bf2480eff3eb08852fa843ca2f655fd6f29e80f093"),
    "merge": (
        Op(INPUTS, MergeOp((0, -1))),
        "sha256:2a50144700631620f07c73ac1624e159abef1ad1a095da2b14207fa2e27785b9",
    ),
    "diff": (
        Op(INPUTS, DiffOp(-1, 0)),
        "sha256:ce0832d35709dbb56f218800d007a55bc52e2ca7ea4a50765b17e33db900d906",
    ),
    "passthrough": (
        Op(INPUTS, PassthroughOp("p", (0, 300, 0))),
        "sha256:db04dd53dc42276034cd79a4152e2a6b57a0611ff6ec1945362bab0c49183e0b",
    ),
    "last": (
        Op(INPUTS, None, None, None),
        "sha256:0b45d6eb33ccda7a21da070d952d053ebf59826807db56623de268f593eac874",
    ),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_digest_of_an_op_is_the_one_that_go_computes(kind: str) -> None:
    op, digest = KNOWN[kind]
    assert op_digest(op) == digest
