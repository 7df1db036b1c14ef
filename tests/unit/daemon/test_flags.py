"""The daemon's command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.daemon.flags import parse_flags, usage
from anyarch.daemon.settings import settings_of
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_flags_of_buildkitd_are_taken_in_all_their_forms() -> None:
    settings = settings_of(
        parse_flags(
            [
                "--oci-worker=true",
                "--containerd-worker=false",
                "--oci-worker-gc=false",
                "--oci-worker-labels=org.example.sandbox=true",
                "--root",
                "/var/lib/x",
                "--addr",
                "unix:///run/a.sock",
                "-addr=tcp://127.0.0.1:1234",
                "--debug",
                "--allow-insecure-entitlement",
                "network.host,security.insecure",
            ]
        )
    )
    assert settings.root == "/var/lib/x"
    assert settings.addresses == ("unix:///run/a.sock", "tcp://127.0.0.1:1234")
    assert settings.labels == {"org.example.sandbox": "true"}
    assert settings.entitlements == ("network.host", "security.insecure")
    assert settings.debug
    assert not settings.gc


@pytest.mark.parametrize("text", ["[grpc]\nallowUnauthenticatedTCP = true\n", ""])
def test_tcp_without_certificates_is_allowed_by_flag_or_file_only(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    config = f"--config={tmp_path}/c.toml"
    assert settings_of(parse_flags([config])).unauthenticated_tcp == bool(text)
    assert settings_of(parse_flags([config, "--allow-unauthenticated-tcp"])).unauthenticated_tcp
    assert not settings_of(parse_flags([config, "--allow-unauthenticated-tcp=false"])).unauthenticated_tcp


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--no-such-flag"], "flag provided but not defined: -no-such-flag"),
        (["--root"], "flag needs an argument: -root"),
        (["--debug=maybe"], 'invalid boolean value "maybe" for flag -debug'),
        (["word"], "unexpected argument: word"),
        (["--oci-max-parallelism=many"], "not a number"),
        (["--containerd-worker=true"], "no containerd worker"),
        (["--oci-worker=false"], "no worker would be left"),
        (["--tlscert=x"], "key and cert"),
        (["--tlscacert=x"], "tlscacert needs"),
        (["--allow-insecure-entitlement=root"], "invalid entitlement : root"),
        (["--oci-worker-labels=x"], "invalid label x"),
        (["--log-format=xml"], "unsupported log type: xml"),
        (["--group=no-such-group-here"], "unknown group"),
    ],
)
def test_what_makes_no_sense_is_an_error(arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings_of(parse_flags(arguments))
    assert says in str(caught.value)


def test_help_names_every_flag() -> None:
    assert "--addr LIST" in usage()
    assert "--oci-worker-gc" in usage()
