from __future__ import annotations

import random
import re
import threading

import pytest

from anyarch.errors import NoMatchingPlatform, UsageError
from anyarch.http.client import HttpClient
from anyarch.http.retry import RetryPolicy
from anyarch.imagetools.copy import CopyRequest, copy
from anyarch.imagetools.places import parse_place
from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credentials
from anyarch.registry.hosts import Hosts
from anyarch.spec.platform import Platform
from anyarch.testing.registry import FakeRegistry, Fault

from .conftest import add_multi

PATIENT = RetryPolicy(attempts=12, budget_s=60, first_delay_s=0.001, max_delay_s=0.01, refusal_delay_s=0.001)
PASSING = (
    {"status": 429, "headers": {"Retry-After": "0"}},
    {"status": 503},
    {"drop": True},
    {"truncate": 60},
    {"drop_body_after": 60},
)


@pytest.fixture
def other():
    with FakeRegistry() as registry:
        yield registry


def connect():
    return Registry(Hosts(), Credentials({"HOME": "/nonexistent"}), http=HttpClient(env={}, retry=PATIENT))


def move(*words, **more):
    *sources, target = map(str, words)
    return copy(CopyRequest(sources=tuple(sources), target=target, **more), connect=connect)


def weather(seed):
    draw = random.Random(seed)
    lock = threading.Lock()

    def fault(method, path):
        with lock:
            if draw.random() >= 0.25:
                return None
            return Fault(method, re.compile(""), 0, 1, **draw.choice(PASSING))

    return fault


@pytest.mark.parametrize("seed", range(8))
def test_a_copy_between_two_bad_registries_comes_through_and_sends_nothing_twice(fake, other, seed):
    index = add_multi(fake, attested=True)
    fake.draw_fault, other.draw_fault = weather(seed), weather(seed + 100)
    (result,) = move(f"{fake.address}/lib/app:1", f"{other.address}/lib/app:1")
    assert result.digest == index.digest == other.tags["lib/app", "1"]
    assert {d: raw for (_, d), raw in other.blobs.items()} == {d: raw for (_, d), raw in fake.blobs.items()}
    digests = [re.search(r"digest=(\S+)", r.path)[1] for r in other.requests("PUT", "/uploads/", status=201)]
    assert len(digests) == len(set(digests))


def test_what_is_at_the_target_is_not_even_read(fake, other):
    add_multi(fake)
    move(f"{fake.address}/lib/app:1", f"{other.address}/lib/app:1")
    fake.clear_log()
    other.clear_log()
    (result,) = move(f"{fake.address}/lib/app:1", f"{other.address}/lib/app:2")
    assert fake.count("GET", "/blobs/") == 0
    assert other.count("POST") == other.count("PUT", "/uploads/") == 0
    assert result.totals.moved_blobs == 0


def test_platforms_are_chosen(fake, other):
    index = add_multi(fake, attested=True)
    arm = Platform.parse("linux/arm/v7")
    (one,) = move(f"{fake.address}/lib/app:1", f"{other.address}/lib/one:1", platforms=(arm,))
    assert other.manifests["lib/one", one.digest].media_type.endswith("manifest.v1+json")
    both = (arm, Platform.parse("linux/amd64"))
    (two,) = move(f"{fake.address}/lib/app:1", f"{other.address}/lib/two:1", platforms=both)
    assert two.digest == index.digest
    with pytest.raises(NoMatchingPlatform, match="none of the manifests match"):
        move(
            f"{fake.address}/lib/app:1",
            f"{other.address}/lib/no:1",
            platforms=(Platform.parse("linux/s390x"),),
        )


def test_an_index_does_not_go_where_one_image_goes(fake, tmp_path):
    add_multi(fake)
    with pytest.raises(NoMatchingPlatform, match="it holds one platform"):
        move(f"{fake.address}/lib/app:1", f"docker-archive://{tmp_path}/x.tar:app:1")
    assert list(tmp_path.iterdir()) == []


def test_several_images_need_a_prefix_and_names_of_their_own(fake, other):
    fake.add_image("lib/a", "1", [b"a"])
    fake.add_image("other/a", "1", [b"b"])
    with pytest.raises(UsageError, match="cannot all be"):
        move(f"{fake.address}/lib/a:1", f"{fake.address}/other/a:1", f"{other.address}/x:1")
    with pytest.raises(UsageError, match="the same name"):
        move(f"{fake.address}/lib/a:1", f"{fake.address}/other/a:1", f"{other.address}/x/")
    move(f"{fake.address}/lib/a:1", f"{other.address}/x/")
    assert ("x/a", "1") in other.tags


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("docker://ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ("oci-layout:///tmp/x:1", "oci-layout:///tmp/x:1"),
        ("/tmp/x.tar", "oci-layout:///tmp/x.tar"),
        ("docker-archive://x.tar:app:1", "docker-archive://x.tar:app:1"),
        ("docker-archive://x.tar", "docker-archive://x.tar"),
        ("store://app", "store://app:latest"),
        ("docker-daemon://app:2", "docker-daemon://app:2"),
        ("containerd://app", "containerd://app:latest"),
    ],
)
def test_places_are_written_so(text, shown):
    assert str(parse_place(text)) == shown


@pytest.mark.parametrize("text", ["ftp://x", "oci-layout://", "docker-archive://"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(UsageError):
        parse_place(text)
