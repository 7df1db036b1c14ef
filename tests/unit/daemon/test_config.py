"""The daemon's configuration file: what is acted on, what is refused, what is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.daemon.flags import parse_flags
from anyarch.daemon.retention import HistoryLimits
from anyarch.daemon.settings import settings_of
from anyarch.errors import UsageError
from anyarch.sandbox.net.dns import Dns
from anyarch.sandbox.net.networks import NetworkSettings
from anyarch.store.policy import Disk, Filter, Policy
from anyarch.store.policy import Settings as GcSettings

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.daemon.settings import Settings


def told(path: Path, text: str, *flags: str) -> Settings:
    (path / "c.toml").write_text(text)
    return settings_of(parse_flags([f"--config={path}/c.toml", *flags]))


def policies(settings: Settings) -> tuple[Policy, ...]:
    assert settings.gc_rules is not None
    return GcSettings.of(settings.gc_rules, Disk(1000, 500)).policies


def test_rules_of_the_collection_are_taken(tmp_path: Path) -> None:
    text = """
    [[worker.oci.gcpolicy]]
    filters = ["type==source.local", "type==exec.cachemount,inuse==false"]
    keepDuration = "48h"
    maxUsedSpace = 512
    [[worker.oci.gcpolicy]]
    all = true
    keepDuration = 3600
    keepBytes = "10%"
    """
    local, mounts = Filter("type", "==", "source.local"), Filter("type", "==", "exec.cachemount")
    assert policies(told(tmp_path, text)) == (
        Policy(
            filters=((local,), (mounts, Filter("inuse", "==", "false"))), keep_s=48 * 3600.0, max_used=512
        ),
        Policy(all=True, keep_s=3600.0, reserved=100),
    )


@pytest.mark.parametrize(
    ("text", "flags", "limits"),
    [
        ('[worker.oci]\nmaxUsedSpace = "50%"', (), (0, 500, 0)),
        ("[worker.oci]\ngckeepstorage = 7", (), (7, 0, 0)),
        (
            "[worker.oci]\ngckeepstorage = 7",
            ("--oci-worker-gc-keepstorage=1,2,3",),
            (10**6, 3 * 10**6, 2 * 10**6),
        ),
    ],
)
def test_limits_of_the_store_are_taken(
    tmp_path: Path, text: str, flags: tuple[str, ...], limits: tuple[int, int, int]
) -> None:
    last = policies(told(tmp_path, text, *flags))[-1]
    assert (last.reserved, last.max_used, last.min_free) == limits


def test_nothing_said_leaves_the_users_rules(tmp_path: Path) -> None:
    settings = told(tmp_path, "")
    assert settings.gc_rules is None
    assert settings.history == HistoryLimits(50, 172800.0)


def test_the_network_of_steps_is_that_of_the_flags_or_of_the_file(tmp_path: Path) -> None:
    text = """
[worker.oci]
networkMode = "cni"
cniConfigPath = "/etc/c.conflist"
cniBinaryPath = "/opt/b"
cniPoolSize = 4
bridgeName = "b0"
bridgeSubnet = "10.1.0.0/16"
[dns]
nameservers = ["9.9.9.9"]
searchDomains = ["a.example"]
options = ["edns0"]
"""
    found = told(tmp_path, text)
    assert found.networks == NetworkSettings("cni", "/etc/c.conflist", "/opt/b", 4, "b0", "10.1.0.0/16")
    assert found.dns == Dns(("9.9.9.9",), ("edns0",), ("a.example",))
    flags = ("--oci-worker-net=host", "--oci-cni-config-path=/c", "--oci-cni-binary-dir=/d")
    found = told(tmp_path, text, *flags, "--oci-cni-pool-size=0")
    assert found.networks == NetworkSettings("host", "/c", "/d", 0, "b0", "10.1.0.0/16")
    assert told(tmp_path, "").networks == NetworkSettings("auto")
    assert told(tmp_path, "").dns is None


def test_all_builds_are_proxied_where_the_flag_or_the_file_says_so(tmp_path: Path) -> None:
    assert not told(tmp_path, "").is_proxied
    assert told(tmp_path, "proxyNetwork = true").is_proxied
    assert told(tmp_path, "", "--proxy-network").is_proxied
    assert not told(tmp_path, "proxyNetwork = true", "--proxy-network=false").is_proxied


def test_limits_of_the_history_are_taken(tmp_path: Path) -> None:
    assert told(tmp_path, "[history]\nmaxAge = 60\nmaxEntries = 3").history == HistoryLimits(3, 60.0)
    assert told(tmp_path, '[history]\nmaxAge = "2h"').history == HistoryLimits(0, 7200.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[dns]\nnameservers = ["one"]', "dns.nameservers: bad nameserver address: 'one'"),
        ('[dns]\nsearchDomains = ["a\\nb"]', "dns: 'a\\nb' is not one word"),
        ("[grpc]\nmax_recv_message_size = 5", "grpc.max_recv_message_size: "),
        ('[frontend."gateway.v0"]\nallowedRepositories = ["x"]', "frontend.gateway.v0.allowedRepositories: "),
        ('[frontend."dockerfile.v0"]\nenabled = false', "frontend.dockerfile.v0.enabled: "),
        ('[worker.oci]\napparmor-profile = "x"', "worker.oci.apparmor-profile: "),
        ('[worker.oci]\nsnapshotter = "stargz"', "worker.oci.snapshotter: there is no stargz"),
        ('[worker.oci]\nnetworkMode = "macvlan"', 'invalid network mode: "macvlan"'),
        ("[worker.oci]\ncniPoolSize = -1", "cniPoolSize has to be a number of networks, 0 or more"),
        ("[[worker.oci.gcpolicy]]\nkeepbytes = 1", "unknown key 'keepbytes'"),
        ('[[worker.oci.gcpolicy]]\nfilters = ["nonsense==1"]', "invalid filter"),
        (
            '[[worker.oci.gcpolicy]]\nkeepDuration = "soon"',
            "worker.oci.gcpolicy.keepDuration: invalid duration",
        ),
        ('[worker.oci]\nreservedSpace = "lots"', "invalid size"),
        ("[history]\nmaxEntries = -1", "history.maxEntries: -1"),
        ("[workers.oci]\nenabled = true", "unknown key 'workers'"),
    ],
)
def test_what_is_not_acted_on_is_an_error_that_names_the_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        told(tmp_path, text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[worker.containerd]\nenabled = false\nnamespace = "x"',
            "worker.containerd has no effect here: there is no",
        ),
    ],
)
def test_settings_of_what_is_not_there_are_told(tmp_path: Path, text: str, says: str) -> None:
    (note,) = told(tmp_path, text).notes
    assert says in note


def test_a_table_of_a_worker_has_only_its_own_keys(tmp_path: Path) -> None:
    assert told(tmp_path, "[worker.containerd]\nenabled = false").notes == ()
    for text in ('[worker.oci]\naddress = "/run/x"', '[worker.containerd]\nbinary = "crun"'):
        with pytest.raises(UsageError, match="unknown key"):
            told(tmp_path, text)


def test_what_has_no_effect_on_builds_is_told(tmp_path: Path) -> None:
    (note,) = told(tmp_path, '[grpc]\ndebugAddress = "0.0.0.0:6060"\n[dns]\nnameservers = []').notes
    assert note == f"{tmp_path}/c.toml: grpc.debugAddress has no effect here"
