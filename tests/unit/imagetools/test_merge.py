from __future__ import annotations

import json
import threading

import pytest

from anyarch.errors import UsageError
from anyarch.imagetools.combine import Annotation
from anyarch.imagetools.merge import MergeRequest, merge
from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credentials
from anyarch.registry.hosts import Hosts
from anyarch.spec.oci import Blob, Index, decode, encode
from anyarch.spec.platform import Platform
from anyarch.testing.registry import FakeRegistry

from .conftest import add_attestation, write_layout

ARM = Platform.parse("linux/arm64")


def connect():
    return Registry(Hosts(), Credentials({"HOME": "/nonexistent"}))


def join(*sources, tag, push=True, **more):
    request = MergeRequest(sources=sources, tags=(tag,), push=push, **more)
    return merge(request, connect=connect)


def add_part(fake, architecture, content=b"x", *, attested=False):
    """lib/app@…: an index of one platform; answers its reference."""
    image = fake.add_image("lib/app", None, [content], architecture=architecture)
    entry = image.descriptor(platform=Platform.parse(f"linux/{architecture}").spec())
    entries = [entry, add_attestation(fake, entry)] if attested else [entry]
    index = fake.add_index("lib/app", None, entries)
    return f"{fake.address}/lib/app@{index.digest}", image.digest


def in_tag(fake, tag="1", repository="lib/app"):
    """Architectures and digests that a tag names, attestations left out."""
    index = decode(Index, fake.manifests[repository, fake.tags[repository, tag]].raw)
    return {
        e.platform.architecture: e.digest for e in index.manifests if e.platform.architecture != "unknown"
    }


def test_parts_in_any_order_give_the_same_index(fake):
    parts = [add_part(fake, name, attested=True)[0] for name in ("riscv64", "amd64", "arm64")]
    first = join(*parts, tag=f"{fake.address}/lib/app:1")
    second = join(*reversed(parts), tag=f"{fake.address}/lib/app:2")
    assert first.blob.raw == second.blob.raw
    assert fake.tags["lib/app", "1"] == fake.tags["lib/app", "2"] == first.blob.digest
    kinds = [e["platform"]["architecture"] for e in json.loads(first.blob.raw)["manifests"]]
    assert kinds == ["amd64", "arm64", "riscv64", "unknown", "unknown", "unknown"]
    join(
        *parts,
        tag=f"{fake.address}/lib/app:3",
        platforms=(Platform.parse("linux/riscv64"), Platform.parse("linux/amd64")),
    )
    assert list(in_tag(fake, "3")) == ["riscv64", "amd64"]


def test_two_images_of_one_platform_are_refused(fake):
    first, _ = add_part(fake, "arm64", b"1")
    second, _ = add_part(fake, "arm64", b"2")
    with pytest.raises(UsageError, match="two different images for linux/arm64"):
        join(first, second, tag=f"{fake.address}/lib/app:1")
    assert ("lib/app", "1") not in fake.tags
    join(first, first, tag=f"{fake.address}/lib/app:1")  # the same twice is no conflict


def test_a_platform_is_added_replaced_annotated_and_removed_in_place(fake):
    tag = f"{fake.address}/lib/app:1"
    amd, amd_digest = add_part(fake, "amd64")
    join(amd, tag=tag)
    arm, arm_digest = add_part(fake, "arm64", b"old", attested=True)
    join(arm, tag=tag)
    assert in_tag(fake) == {"amd64": amd_digest, "arm64": arm_digest}
    new, new_digest = add_part(fake, "arm64", b"new")
    join(new, tag=tag)
    assert in_tag(fake) == {"amd64": amd_digest, "arm64": new_digest}
    join(
        tag=tag,
        annotations=(
            Annotation("who", "me", "index"),
            Annotation("k", "v", "manifest-descriptor", ARM),
        ),
    )
    made = json.loads(fake.manifests["lib/app", fake.tags["lib/app", "1"]].raw)
    assert made["annotations"] == {"who": "me"}
    assert [e.get("annotations") for e in made["manifests"]] == [None, {"k": "v"}]
    join(arm, tag=tag)  # and back: what was replaced may come again
    assert in_tag(fake) == {"amd64": amd_digest, "arm64": arm_digest}
    join(tag=tag, remove=(ARM,))
    assert in_tag(fake) == {"amd64": amd_digest}
    with pytest.raises(UsageError, match="it has no image for linux/arm64"):
        join(tag=tag, remove=(ARM,))


def test_only_keeps_nothing_of_what_the_tag_had(fake):
    tag = f"{fake.address}/lib/app:1"
    join(add_part(fake, "amd64")[0], tag=tag, annotations=(Annotation("a", "b", "index"),))
    part, digest = add_part(fake, "arm64")
    result = join(part, tag=tag, only=True)
    assert in_tag(fake) == {"arm64": digest}
    assert fake.tags["lib/app", "1"] == result.blob.digest
    single = fake.add_image("lib/app", "single", [b"s"], architecture="s390x")
    with pytest.raises(UsageError, match="it names a single image"):
        join(part, tag=f"{fake.address}/lib/app:single")
    join(part, f"{fake.address}/lib/app:single", tag=f"{fake.address}/lib/app:single", only=True)
    assert in_tag(fake, "single") == {"arm64": digest, "s390x": single.digest}


def test_annotations_on_which_parts_disagree_have_to_be_given(fake):
    entries = []
    for name in ("amd64", "arm64"):
        image = fake.add_image("lib/app", None, [name.encode()], architecture=name)
        index = Index(
            schema_version=2,
            media_type="application/vnd.oci.image.index.v1+json",
            manifests=(image.descriptor(platform=Platform.parse(f"linux/{name}").spec()),),
            annotations={
                "url": name,
                "same": "x",
                "org.opencontainers.image.created": f"2026-01-0{len(name)}",
            },
        )
        blob = Blob.of(index.media_type, encode(index))
        fake.add_manifest("lib/app", blob)
        entries.append(f"{fake.address}/lib/app@{blob.digest}")
    with pytest.raises(UsageError, match="disagree on the annotation url"):
        join(*entries, tag=f"{fake.address}/lib/app:1")
    result = join(*entries, tag=f"{fake.address}/lib/app:1", annotations=(Annotation("url", "u", "index"),))
    assert decode(Index, result.blob.raw).annotations == {
        "url": "u",
        "same": "x",
        "org.opencontainers.image.created": "2026-01-05",
    }


def test_parts_come_from_layouts_and_go_to_layouts_and_the_store(fake, tmp_path):
    part, digest = add_part(fake, "arm64", attested=True)
    index = fake.manifests["lib/app", part.partition("@")[2]]
    write_layout(tmp_path / "part", fake, "lib/app", index.descriptor())
    result = merge(
        MergeRequest(sources=(str(tmp_path / "part"),), tags=("lib/mine:1",), output=str(tmp_path / "out")),
        connect=connect,
    )
    assert result.blob.raw == index.raw
    assert (tmp_path / "out/blobs/sha256" / digest.partition(":")[2]).is_file()
    root = str(tmp_path / "store")
    merge(MergeRequest(sources=(str(tmp_path / "out"),), tags=("mine:1",)), connect=connect, root=root)
    back = merge(
        MergeRequest(sources=("store://mine:1",), tags=(f"{fake.address}/lib/back:1",), push=True),
        connect=connect,
        root=root,
    )
    assert fake.tags["lib/back", "1"] == index.digest == back.blob.digest


def test_what_makes_no_sense_is_refused(fake):
    part, _ = add_part(fake, "arm64")
    for request, words in (
        (MergeRequest(tags=("a",)), "no parts to merge"),
        (MergeRequest(sources=(part,)), "no name for the result"),
        (MergeRequest(sources=(part,), tags=("a",), remove=(ARM,)), "--remove takes platforms out"),
        (MergeRequest(sources=(part,), tags=("a",), only=True), "--only is about"),
        (MergeRequest(sources=(part,), tags=("a@" + part.partition("@")[2],)), "a digest cannot be chosen"),
        (
            MergeRequest(sources=(part,), tags=("a",), platforms=(Platform.parse("linux/386"),)),
            "no part is for linux/386",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            merge(request, connect=connect)


def test_old_parts_are_removed_and_what_they_said_stays(fake):
    tag = f"{fake.address}/lib/app:1"
    for name in ("amd64", "arm64"):
        join(add_part(fake, name, name.encode())[0], tag=tag)
    assert len([t for _, t in fake.tags if ".part-" in t]) == 2
    join(add_part(fake, "s390x")[0], tag=tag, keep_s=-1)
    assert [t for _, t in fake.tags if ".part-" in t] == []
    assert set(in_tag(fake)) == {"amd64", "arm64", "s390x"}
    fake.supports_delete = False
    join(add_part(fake, "riscv64")[0], tag=tag, keep_s=-1)
    assert set(in_tag(fake)) == {"amd64", "arm64", "s390x", "riscv64"}


def race(works):
    failures = []

    def run(work):
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_merges_that_race_200_times_lose_nothing():
    names = ("amd64", "arm64", "riscv64")
    with FakeRegistry() as fake:
        parts = {name: add_part(fake, name, name.encode()) for name in names}
        for number in range(200):
            tag = f"{fake.address}/lib/app:r{number}"
            chosen = names[: 2 + number % 2]
            failures = race([lambda part=parts[n][0], tag=tag: join(part, tag=tag) for n in chosen])
            assert failures == []
            assert in_tag(fake, f"r{number}") == {n: parts[n][1] for n in chosen}


def test_replacing_removing_and_adding_at_the_same_time_is_all_done():
    with FakeRegistry() as fake:
        old = {name: add_part(fake, name, b"old") for name in ("amd64", "arm64", "s390x")}
        new = add_part(fake, "arm64", b"new")
        more = add_part(fake, "riscv64")
        for number in range(30):
            tag = f"{fake.address}/lib/app:r{number}"
            join(*(part for part, _ in old.values()), tag=tag)
            failures = race(
                [
                    lambda tag=tag: join(new[0], tag=tag),
                    lambda tag=tag: join(tag=tag, remove=(Platform.parse("linux/s390x"),)),
                    lambda tag=tag: join(more[0], tag=tag),
                ]
            )
            assert failures == []
            assert in_tag(fake, f"r{number}") == {
                "amd64": old["amd64"][1],
                "arm64": new[1],
                "riscv64": more[1],
            }


def test_different_images_for_one_platform_at_the_same_time_are_told():
    with FakeRegistry() as fake:
        rivals = [add_part(fake, "arm64", content) for content in (b"1", b"2")]
        for number in range(10):
            tag = f"{fake.address}/lib/app:r{number}"
            failures = race([lambda part=part, tag=tag: join(part, tag=tag) for part, _ in rivals])
            assert all("at the same time" in str(error) for error in failures)
            # None is told only when one had seen the other, and so replaced it.
            join(rivals[0][0], tag=tag)
            assert in_tag(fake, f"r{number}") == {"arm64": rivals[0][1]}
