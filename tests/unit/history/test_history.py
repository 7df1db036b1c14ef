"""Names, filters and descriptions of build records."""

from __future__ import annotations

import pytest

from anyarch.errors import UsageError
from anyarch.history.details import describe, local_time
from anyarch.history.filters import for_daemon, matcher
from anyarch.history.name import build_name
from anyarch.history.record import BuildRecord, RecordError

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("attrs", "paths", "name"),
    [
        ({}, ("", ""), ""),
        ({}, ("/home/me/app", ""), "app"),
        ({}, ("/home/me/app", "/home/me/app/Dockerfile"), "app"),
        ({}, ("/home/me/app", "/home/me/app/sub/Dockerfile"), "app/sub"),
        ({}, ("/home/me/app", "/home/me/app/web.Dockerfile"), "app/web.Dockerfile"),
        ({}, ("/home/me/app", "/etc/docker/Dockerfile"), "docker"),
        ({}, ("/home/me/app", "/etc/docker/D"), "docker/D"),
        ({}, ("-", ""), ""),
        ({"target": "x"}, ("", ""), "x"),
        ({"target": "x"}, ("/home/me/app", "-"), "app (x)"),
        ({"filename": "D", "vcs:localdir:dockerfile": "sub"}, ("", ""), "sub/D"),
        ({"vcs:localdir:context": "sub"}, ("/home/me/app", ""), "sub"),
        ({"vcs:localdir:context": "."}, ("/home/me/app", ""), "app"),
        ({"context": "https://git.example/a.git"}, ("https://git.example/a.git", ""), "https://git.example/a.git"),
        ({"vcs:source": "https://git.example/a.git"}, ("", ""), "https://git.example/a.git"),
        ({"build-arg:BUILDKIT_BUILD_NAME": "mine", "target": "x"}, ("/a", ""), "mine"),
    ],
)  # fmt: skip
def test_a_build_is_named_after_where_it_is_from(attrs, paths, name):
    assert build_name(attrs, *paths) == name


def record(**values):
    values.setdefault("started", 100 * SECOND)
    return BuildRecord(ref="abc", **values)


FAILED = RecordError(2, "no")


@pytest.mark.parametrize(
    ("text", "found", "holds"),
    [
        ("status=error", record(completed=101 * SECOND, error=FAILED), True),
        ("status=error", record(completed=101 * SECOND), False),
        ("status!=running", record(), False),
        ("status=canceled", record(completed=1, error=RecordError(2, "x: context canceled")), True),
        ("status=completed", record(completed=1), True),
        ("ref=b", record(), True),
        ("ref!=b", record(), False),
        ("repository=example/a", record(attrs={"vcs:source": "https://git.example/a.git"}), True),
        ("repository=example/a", record(attrs={"context": "https://git.example/a.git"}), True),
        ("repository=other", record(attrs={"vcs:source": "https://git.example/a.git"}), False),
        ("duration>1m", record(completed=190 * SECOND), True),
        ("duration<=1m30s", record(completed=190 * SECOND), True),
        ("duration<1m30s", record(completed=190 * SECOND), False),
        ("duration<1h", record(), False),
        ("startedAt>50s", record(), True),
        ("startedAt>=1970-01-01T00:01:41Z", record(), False),
        ("completedAt<1970-01-01T00:02:00Z", record(completed=101 * SECOND), True),
        ("completedAt<1970-01-01T00:02:00Z", record(), False),
    ],
)
def test_filters_choose_records(text, found, holds):
    assert matcher([text], now=149.0)(found) is holds
    assert matcher(["ref=abc", text], now=149.0)(found) is holds
    assert not matcher(["ref=other", text], now=149.0)(found)


@pytest.mark.parametrize(
    "text", ["status", "status<1", "duration=1s", "other=1", "duration<soon", "startedAt<soon"]
)
def test_a_filter_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        matcher([text])


def test_daemons_get_all_filters_as_one():
    texts = ["status=error", "ref=a", "repository!=x,y", "duration<=1m"]
    assert for_daemon(texts) == ['status==error,ref~=a,"repository!=x,y",duration<=1m']
    assert for_daemon([]) == []


def test_a_description_has_the_keys_of_buildx():
    attrs = {
        "filename": "D",
        "target": "x",
        "platform": "linux/arm64,linux/arm/v7",
        "build-arg:A": "1",
        "build-arg:SOURCE_DATE_EPOCH": "0",
        "label:l": "",
        "context:base": "docker-image://busybox",
        "multi-platform": "true",
        "no-cache": "a,b",
        "add-hosts": "a=1.2.3.4,b=::1",
        "memory": "1024",
        "vcs:source": "https://git.example/a.git",
        "frontend.caps": "forward",
        "zzz": "1",
    }
    found = describe(
        record(attrs=attrs, completed=102 * SECOND, error=FAILED, steps=4, cached_steps=1),
        name="n",
        local_path="/home/me/app",
        dockerfile_path="/home/me/app/D",
        cwd="/home/me",
    )
    assert found.pop("StartedAt") == local_time(100 * SECOND)
    assert found.pop("CompletedAt") == local_time(102 * SECOND)
    assert found == {
        "Name": "n",
        "Ref": "abc",
        "Context": "app",
        "Dockerfile": "D",
        "VCSRepository": "https://git.example/a.git",
        "Target": "x",
        "Platform": ["linux/arm64", "linux/arm/v7"],
        "NamedContexts": [{"Name": "base", "Value": "docker-image://busybox"}],
        "Duration": 2 * SECOND,
        "Status": "failed",
        "Error": {"Code": 2, "Message": "no"},
        "NumCompletedSteps": 0,
        "NumTotalSteps": 4,
        "NumCachedSteps": 1,
        "BuildArgs": [{"Name": "A", "Value": "1"}, {"Name": "SOURCE_DATE_EPOCH", "Value": "0"}],
        "Labels": [{"Name": "l"}],
        "Config": {
            "ExtraHosts": ["a=1.2.3.4", "b=::1"],
            "MultiPlatform": True,
            "NoCacheFilter": ["a", "b"],
            "Memory": "1024",
            "SourceDateEpoch": "0",
            "RestRaw": [{"Name": "zzz", "Value": "1"}],
        },
    }


def test_paths_outside_of_where_the_user_is_stay_absolute():
    values = {"name": "n", "local_path": "/srv/app", "dockerfile_path": "/etc/D", "cwd": "/home/me"}
    found = describe(record(), **values)
    assert (found["Context"], found["Dockerfile"]) == ("/srv/app", "/etc/D")


def test_a_value_that_cannot_be_read_is_told():
    found = describe(record(attrs={"multi-platform": "perhaps"}), name="")
    assert found["Errors"][0].startswith("failed to parse perhaps: ")
