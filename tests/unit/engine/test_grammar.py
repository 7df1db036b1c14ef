from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.engine import grammar
from anyarch.engine.options import frontend_attrs
from anyarch.engine.request import Annotation, BuildRequest, CacheOption, Output, Secret, Ssh, Ulimit
from anyarch.errors import InvalidPlatform, UsageError
from anyarch.spec.platform import host_platform


@given(st.lists(st.text(alphabet='ab,"= ', max_size=6), min_size=1, max_size=5))
def test_csv_is_read_as_pythons_module_writes_it(fields):
    target = io.StringIO()
    csv.writer(target, lineterminator="", quoting=csv.QUOTE_ALL).writerow(fields)
    assert grammar.csv_fields(target.getvalue()) == fields
    if all('"' not in field and "," not in field for field in fields):
        assert grammar.csv_fields(",".join(fields)) == fields


@given(st.text(alphabet='ab,"', max_size=12))
def test_any_text_is_fields_or_a_usage_error(text):
    try:
        fields = grammar.csv_fields(text)
    except UsageError:
        assert '"' in text
    else:
        assert fields


@pytest.mark.parametrize("text", ['a"b', '"a', '"a"b', 'x,"a"b', '"'])
def test_quotes_that_do_not_match_are_refused(text):
    with pytest.raises(UsageError):
        grammar.csv_fields(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("out", Output("local", "out")),
        ("-", Output("tar", "-")),
        ("type=oci,dest=a.tar,tar=false", Output("oci", "a.tar", {"tar": "false"})),
        ("type=image,NAME=a,Push=True", Output("image", None, {"name": "a", "push": "True"})),
        ('type=image,"name=a,b"', Output("image", None, {"name": "a,b"})),
        ("dest=x=y,type=tar", Output("tar", "x=y")),
        ("type=local", Output("local")),
    ],
)
def test_outputs(text, wanted):
    assert grammar.output(text) == wanted


@pytest.mark.parametrize("text", ["type=", "dest=a,name=b", "type=oci,nonsense", "a,b"])
def test_outputs_that_are_none(text):
    with pytest.raises(UsageError):
        grammar.output(text)


@pytest.mark.parametrize(
    ("outputs", "push", "load", "wanted"),
    [
        ([], False, False, ()),
        ([], True, False, (Output("image", None, {"unpack": "false", "push": "true"}),)),
        ([], False, True, (Output("docker"),)),
        (
            [Output("image", None, {"a": "b"})],
            True,
            False,
            (Output("image", None, {"a": "b", "push": "true"}),),
        ),
        ([Output("registry")], True, False, (Output("image", None, {"push": "true"}),)),
        ([Output("docker")], False, True, (Output("docker"),)),
        ([Output("docker", "f")], False, True, (Output("docker", "f"), Output("docker"))),
        (
            [Output("oci", "f")],
            True,
            True,
            (
                Output("oci", "f"),
                Output("image", None, {"unpack": "false", "push": "true"}),
                Output("docker"),
            ),
        ),
    ],
)
def test_push_and_load_go_into_the_outputs_or_beside_them(outputs, push, load, wanted):
    assert grammar.with_shorthands(outputs, push=push, load=load) == wanted


def test_platforms_are_normalised_and_unique_in_order():
    assert grammar.platforms(["linux/arm64/v8,arm", "local", "linux/aarch64"]) == (
        ("linux/arm64", "linux/arm/v7", str(host_platform())),
        ("linux/arm64",),
    )
    with pytest.raises(InvalidPlatform):
        grammar.platforms(["linux/*"])


@pytest.mark.parametrize(
    ("text", "hint"),
    [("linux/loongarch64", "linux/loong64"), ("linx/arm64", "linux/arm64"), ("linux/nothing", "for example")],
)
def test_a_platform_that_does_not_exist_is_an_error(text: str, hint: str) -> None:
    with pytest.raises(InvalidPlatform, match=f"unknown platform {text}") as caught:
        grammar.platforms(["linux/amd64", text])
    assert hint in (caught.value.hint or "")


def test_pairs_take_missing_values_from_the_environment_if_there_is_one():
    texts = ["A=1=2", "B", "C", "D="]
    assert grammar.key_values(texts, {"B": "b"}) == {"A": "1=2", "B": "b", "D": ""}
    assert grammar.key_values(texts) == {"A": "1=2", "B": "", "C": "", "D": ""}


@pytest.mark.parametrize(
    ("texts", "provenance", "sbom", "wanted"),
    [
        ([], None, None, {}),
        ([], "false", "0", {}),
        ([], "true", None, {"provenance": {}}),
        (
            [],
            "mode=max,inline-only=true",
            "generator=x",
            {"provenance": {"mode": "max", "inline-only": "true"}, "sbom": {"generator": "x"}},
        ),
        (["type=sbom,generator=x"], None, "false", {}),
        (["type=sbom", "type=provenance,disabled=true"], None, None, {"sbom": {}}),
    ],
)
def test_attestations(texts, provenance, sbom, wanted):
    assert grammar.attests(texts, provenance=provenance, sbom=sbom) == wanted


def test_attestations_that_are_none():
    for text in ("mode=max", "type=sbom,disabled=perhaps", "sbom"):
        with pytest.raises(UsageError):
            grammar.attests([text])


def test_caches_are_attributes_or_references():
    assert grammar.cache_options(["", "a"]) == (CacheOption("registry", {"ref": "a"}),)
    assert grammar.cache_options(["a/b:c,d", "type=local,src=x"]) == (
        CacheOption("registry", {"ref": "a/b:c"}),
        CacheOption("registry", {"ref": "d"}),
        CacheOption("local", {"src": "x"}),
    )
    with pytest.raises(UsageError, match="type required"):
        grammar.cache_options(["ref=x"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("id=a,src=f", Secret("a", "f")),
        ("id=a,source=f,type=file", Secret("a", "f")),
        ("id=a,env=B", Secret("a", None, "B")),
        ("id=a,type=env,src=B", Secret("a", None, "B")),
        ("id=a,type=env", Secret("a", None, "a")),
        ("id=SET", Secret("SET", None, "SET")),
        ("id=SET,type=file", Secret("SET", "SET")),
        ("id=unset", Secret("unset", "unset")),
    ],
)
def test_secrets(text, wanted):
    assert grammar.secret(text, {"SET": "1"}) == wanted


@pytest.mark.parametrize("text", ["src=f", "id=a,type=x", "id=a,color=red", "a"])
def test_secrets_that_are_none(text):
    with pytest.raises(UsageError):
        grammar.secret(text, {})


def test_ssh():
    assert grammar.ssh("default") == Ssh()
    assert grammar.ssh("key=a,b") == Ssh("key", ("a", "b"))


def test_annotations():
    assert grammar.image_annotations(["a=b=c", "index,manifest[linux/aarch64]:x.y=z"]) == (
        Annotation("a", "b=c"),
        Annotation("x.y", "z", "index"),
        Annotation("x.y", "z", "manifest", "linux/arm64"),
    )
    for text in ("a", "layer:a=b", "index[linux/arm64]:a=b", "manifest[:a=b"):
        with pytest.raises(UsageError):
            grammar.image_annotations([text])


def test_build_contexts():
    assert grammar.build_contexts(["base=./x", "alpine:latest=docker-image://y", "a:1=z"]) == {
        "base": "./x",
        "alpine": "docker-image://y",
        "a:1": "z",
    }
    for text in ("x", "UPPER=y"):
        with pytest.raises(UsageError):
            grammar.build_contexts([text])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a:10.0.0.1", (("a", "10.0.0.1"),)),
        ("a=10.0.0.1,10.0.0.2", (("a", "10.0.0.1"), ("a", "10.0.0.2"))),
        ("a=::1", (("a", "::1"),)),
        ("a:::1", (("a", "::1"),)),
        ("a=[::1]", (("a", "::1"),)),
        ("a=1.2.3.4,b:2.3.4.5", (("a", "1.2.3.4"), ("b", "2.3.4.5"))),
    ],
)
def test_hosts(text, wanted):
    assert grammar.add_hosts([text]) == wanted


def test_hosts_that_are_none():
    for text in ("a", "a:", ":1.2.3.4", "a=nonsense", "1.2.3.4", "a=1.2.3.4.5"):
        with pytest.raises(UsageError):
            grammar.add_hosts([text])


def test_gateway_of_the_host_is_left_to_the_builder():
    assert grammar.add_hosts(["a:host-gateway"]) == (("a", "host-gateway"),)
    request = BuildRequest(add_hosts=(("a", "host-gateway"), ("b", "10.0.0.1")))
    assert frontend_attrs(request)["add-hosts"] == "a=127.0.0.1,b=10.0.0.1"
    with pytest.raises(UsageError, match="unable to derive the IP value for host-gateway"):
        frontend_attrs(request, gateway="")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("1024", 1024),
        ("64m", 64 << 20),
        ("1.5G", 3 << 29),
        ("2kb", 2048),
        ("2KiB", 2048),
        ("7 b", 7),
    ],
)
def test_sizes(text, wanted):
    assert grammar.size_bytes(text) == wanted


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1,5m", "1 kk"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError):
        grammar.size_bytes(text)


def test_ulimits():
    assert grammar.ulimit("nofile=1") == Ulimit("nofile", 1, 1)
    assert grammar.ulimit("nofile=1:-1") == Ulimit("nofile", 1, -1)
    assert grammar.ulimit("core=-1") == Ulimit("core", -1, -1)
    for text in ("nofile", "nofile=a", "files=1", "nofile=2:1", "nofile=-1:5", "nofile=1:"):
        with pytest.raises(UsageError):
            grammar.ulimit(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory", 'invalid resource "memory", expected key=value'),
        ("gpu=1", 'unknown resource "gpu"'),
        ("memory=lots", "invalid value \"lots\" for resource memory: invalid size: 'lots'"),
        ("cpu-quota=half", 'invalid value "half" for resource cpu-quota'),
    ],
)
def test_malformed_resource_is_refused_in_buildx_words(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        grammar.resources([text])
    assert caught.value.message == message


def test_last_value_of_a_resource_counts() -> None:
    assert grammar.resources(["memory=1g", "memory = 2g", "cpu-shares=0"]) == {"memory": str(2 << 30)}
