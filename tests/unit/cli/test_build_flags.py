"""Every flag of `docker buildx build` is known, and does its work, is ignored as buildx ignores
it, or is refused by name; none is ignored in silence."""

from __future__ import annotations

import pytest

from anyarch.cli.commands.build import COMMAND
from anyarch.engine.request import CacheOption, Secret, Ssh

# Flag, a value, and what the request then has.
DONE = [
    ("--add-host", "db:10.0.0.2", {"add_hosts": (("db", "10.0.0.2"),)}),
    ("--allow", "network.host", {"allow": ("network.host",)}),
    ("--accelerate", "tools", {"accelerate": "tools"}),
    ("--arch-check", "error", {"arch_check": "error"}),
    ("--arch-check-allow", "/opt/**", {"arch_check_allow": ("/opt/**",)}),
    ("--build-arg", "A=1", {"build_args": {"A": "1"}}),
    ("--build-context", "a=b", {"build_contexts": {"a": "b"}}),
    ("--call", "build", {"call": "build"}),
    ("--call", "outline,format=json", {"call": "outline"}),
    ("--print", "targets", {"call": "targets"}),
    ("--file", "Other", {"dockerfile": "Other"}),
    ("-f", "Other", {"dockerfile": "Other"}),
    ("-f", "https://h/Dockerfile", {"dockerfile": "https://h/Dockerfile"}),
    ("--label", "a=b", {"labels": {"a": "b"}}),
    ("--network", "none", {"network": "none"}),
    ("--no-emulation", None, {"no_emulation": True}),
    ("--proxy-network", None, {"proxy_network": True}),
    ("--stage-platform", None, {"stage_platform": True}),
    ("--keep-going", None, {"keep_going": True}),
    ("--parallel", "exec=2,cpu=1", {"parallel": ("exec=2,cpu=1",)}),
    ("--no-cache", None, {"no_cache": True}),
    ("--cache-from", "user/app", {"cache_from": (CacheOption("registry", {"ref": "user/app"}),)}),
    ("--cache-to", "type=inline", {"cache_to": (CacheOption("inline"),)}),
    ("--no-cache-filter", "a,b", {"no_cache_filter": ("a", "b")}),
    ("--platform", "linux/arm64,linux/arm", {"platforms": ("linux/arm64", "linux/arm/v7")}),
    ("--print", "build", {"call": "build"}),
    ("--provenance", "false", {"attests": {}, "default_provenance": False}),
    (
        "--provenance",
        "mode=max,version=v0.2",
        {"attests": {"provenance": {"mode": "max", "version": "v0.2"}}},
    ),
    ("--provenance", "true", {"attests": {"provenance": {}}}),
    ("--sbom", "false", {"attests": {}}),
    ("--sbom", "generator=x/y", {"attests": {"sbom": {"generator": "x/y"}}}),
    ("--attest", "type=sbom,disabled=true", {"attests": {}}),
    ("--pull", None, {"pull": True}),
    ("--secret", "id=x,src=f", {"secrets": (Secret("x", "f"),)}),
    ("--cgroup-parent", "ci", {"cgroup_parent": "ci"}),
    ("--cpu-period", "100000", {"resources": {"cpuperiod": "100000"}}),
    ("--cpu-quota", "50000", {"resources": {"cpuquota": "50000"}}),
    ("--cpu-shares", "512", {"resources": {"cpushares": "512"}}),
    ("-c", "0", {"resources": {}}),
    ("--cpuset-cpus", "0-1", {"resources": {"cpusetcpus": "0-1"}}),
    ("--cpuset-mems", "0", {"resources": {"cpusetmems": "0"}}),
    ("--memory", "1g", {"resources": {"memory": str(1 << 30)}}),
    ("-m", "64m", {"resources": {"memory": str(64 << 20)}}),
    ("--memory-swap", "-1", {"resources": {"memswap": "-1"}}),
    ("--resource", "memory=1.5g", {"resources": {"memory": str(3 << 29)}}),
    ("--shm-size", "128m", {"shm_size": 128 << 20}),
    ("--ssh", "default=key", {"ssh": (Ssh("default", ("key",)),)}),
    ("--tag", "app", {"tags": ("docker.io/library/app:latest",)}),
    ("-t", "app", {"tags": ("docker.io/library/app:latest",)}),
    ("--target", "dev", {"target": "dev"}),
]
# Done too, seen elsewhere than in a field: tests of their own in test_build.py.
DONE_ELSEWHERE = {
    "--policy",
    *("--annotation", "--iidfile", "--load", "--metadata-file", "--output", "-o", "--progress", "--push"),
    *("--quiet", "-q", "--ulimit", "--check"),
    "--part",  # tests/engine/test_parts.py
    "--plan",  # test_plan.py
    "--lock",  # tests/engine/test_offline.py
    "--offline",  # tests/engine/test_offline.py
    "--test",  # tests/engine/test_trial.py
    "--emulators",  # tests/engine/test_emulators.py
    *("--optional", "--require"),  # below
}
WARNED = [
    ("--isolation", "x", "isolation flag is deprecated"),
    ("--security-opt", "x", "security-opt flag is deprecated"),
    ("--squash", None, "squash is removed"),
]
IGNORED = [("--compress", None), ("--rm", None), ("--rm=false", None), ("--force-rm", None)]
WRONG_VALUES = [
    ("--provenance", "mode=most", 'invalid mode "most"'),
    ("--provenance", "max", "key=value"),
    ("--provenance", "hermetic=true", "provenance has no attribute 'hermetic'"),
    ("--sbom", "generator=", "sbom generator cannot be empty"),
    ("--attest", "type=custom", 'unknown attestation type "custom"'),
    ("--attest", "mode=max", "attestation type not specified"),
]


def words(flag, value):
    return [flag] if value is None else [flag, value]


@pytest.fixture(autouse=True)
def other_dockerfile(context):
    (context / "Other").write_text("FROM scratch\n")


@pytest.mark.parametrize(("flag", "value", "wanted"), DONE)
def test_a_flag_does_its_work(cli, engine, flag, value, wanted):
    assert cli("build", *words(flag, value), ".").status == 0
    for name, expected in wanted.items():
        assert getattr(engine.request, name) == expected


@pytest.mark.parametrize("field", ["optional", "require"])
def test_platforms_that_may_fail_are_normalised(cli, engine, field):
    platforms = ("--platform", "linux/amd64,linux/arm64,linux/arm/v7")
    assert cli("build", *platforms, f"--{field}", "linux/arm64/v8,linux/arm", ".").status == 0
    assert getattr(engine.request, field) == ("linux/arm64", "linux/arm/v7")
    assert cli("build", *platforms, f"--{field}", "linux/s390x", ".").status == 1


@pytest.mark.parametrize(("flag", "value", "warning"), WARNED)
def test_what_buildx_ignores_with_a_warning_is_so_here(cli, engine, flag, value, warning):
    answer = cli("build", *words(flag, value), ".")
    assert answer.status == 0
    assert f"WARNING: {warning}" in answer.err or warning in answer.err
    assert engine.requests


@pytest.mark.parametrize(("flag", "value"), IGNORED)
def test_what_buildx_ignores_without_a_word_is_so_here(cli, engine, flag, value):
    answer = cli("build", "-o", "out", *words(flag, value), ".")
    assert (answer.status, answer.err) == (0, "")


@pytest.mark.parametrize(("flag", "value", "says"), WRONG_VALUES)
def test_a_wrong_attestation_is_refused_before_any_work(cli, engine, flag, value, says):
    answer = cli("build", *words(flag, value), ".")
    assert answer.status == 1
    assert says in answer.err
    assert not engine.requests


def test_provenance_of_pushes_is_the_default_until_something_is_said_of_it(cli, engine, monkeypatch):
    assert cli("build", "--sbom", "true", ".").status == 0
    assert engine.requests[-1].default_provenance
    for words in (("--provenance", "false"), ("--provenance", "mode=max"), ("--attest", "type=provenance")):
        assert cli("build", *words, ".").status == 0
        assert not engine.requests[-1].default_provenance
    monkeypatch.setenv("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
    assert cli("build", ".").status == 0
    assert not engine.requests[-1].default_provenance
    monkeypatch.setenv("BUILDX_NO_DEFAULT_ATTESTATIONS", "perhaps")
    assert "invalid BUILDX_NO_DEFAULT_ATTESTATIONS" in cli("build", ".").err


def test_the_metadata_file_tells_of_provenance_as_the_environment_says(cli, engine, monkeypatch, tmp_path):
    wanted = {"": "min", "max": "max", "min": "min", "disabled": "", "false": "", "nonsense": "min"}
    for text, mode in wanted.items():
        monkeypatch.setenv("BUILDX_METADATA_PROVENANCE", text)
        assert cli("build", "--metadata-file", str(tmp_path / "m"), ".").status == 0
        assert engine.requests[-1].metadata_provenance == mode
    assert cli("build", ".").status == 0
    assert engine.requests[-1].metadata_provenance == ""


def test_attestations_are_image_manifests_where_the_environment_wants_that(cli, engine, monkeypatch):
    monkeypatch.setenv("BUILDX_NO_DEFAULT_OCI_ARTIFACT", "true")
    assert cli("build", "--push", "-t", "x/y", "-o", "type=oci,dest=a,oci-artifact=true", ".").status == 0
    assert [out.attrs.get("oci-artifact") for out in engine.request.outputs] == ["true", "false"]


def test_a_builder_that_does_not_exist_is_named(cli, engine):
    answer = cli("build", "--builder", "other", ".")
    assert (answer.status, answer.err.splitlines()[0]) == (1, 'ERROR: no builder "other" found')
    assert not engine.requests


def test_the_tables_above_name_every_flag():
    tables = {
        *(row[0].partition("=")[0] for table in (DONE, WARNED, IGNORED) for row in table),
        *DONE_ELSEWHERE,
    }
    known = {
        spelling
        for flag in COMMAND.flags
        for spelling in (f"--{flag.name}", f"-{flag.short}" if flag.short else "")
    }
    assert tables == known - {""}


def test_every_flag_of_buildx_is_known():
    buildx = """add-host allow annotation attest build-arg build-context cache-from cache-to call
        cgroup-parent check compress cpu-period cpu-quota cpu-shares cpuset-cpus cpuset-mems file force-rm
        iidfile isolation label load memory memory-swap metadata-file network no-cache no-cache-filter output
        platform policy print progress provenance pull push quiet resource rm sbom secret security-opt
        shm-size squash ssh tag target ulimit"""
    ours = {"accelerate", "arch-check", "arch-check-allow", "emulators", "no-emulation", "plan"}
    ours |= {"part", "stage-platform", "test", "lock", "offline", "proxy-network"}
    ours |= {"keep-going", "optional", "parallel", "require"}
    assert set(buildx.split()) == {flag.name for flag in COMMAND.flags} - ours
    assert {flag.short for flag in COMMAND.flags if flag.short} == set("cfmoqt")


def test_acceleration_comes_from_the_configuration_file_too(cli, engine, tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    monkeypatch.setenv("ANYARCH_CONFIG", str(path))
    path.write_text('[build]\naccelerate = "tools"\n')
    cli("build", ".")
    cli("build", "--accelerate", "off", ".")
    assert [request.accelerate for request in engine.requests] == ["tools", "off"]

    path.write_text('[build]\naccelerate = "warp"\n')
    answer = cli("build", ".")
    assert answer.status != 0
    assert "[build] accelerate: 'warp' is not one of off, tools, cross, verify" in answer.err


def test_packages_of_compilers_can_be_in_a_directory_or_an_image(cli, engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "debs").mkdir()
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    image = "docker-image://example.org/debs:1"
    for source in ("debs", str(tmp_path / "debs"), image):
        cli("build", "--accelerate", f"cross,packages={source}", ".")

    found = [request.accelerate for request in engine.requests]
    assert found == [f"cross,packages={one}" for one in (tmp_path / "debs", tmp_path / "debs", image)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cross,packages=/nowhere", "/nowhere is not a directory"),
        ("cross,packages=", "is not packages=DIRECTORY or packages=docker-image://NAME"),
        ("cross,from=/tmp", "'from=/tmp' is not packages=DIRECTORY"),
        ("tools,packages=/tmp", "packages are those of compilers: tools needs none"),
        (",packages=/tmp", "is not one of off, tools, cross, verify"),
    ],
)
def test_other_sources_of_packages_are_refused(cli, engine, value, message):
    answer = cli("build", "--accelerate", value, ".")

    assert answer.status != 0
    assert message in answer.err
    assert not engine.requests
