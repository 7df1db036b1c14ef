from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile.expand import expand
from anyarch.frontend.dockerfile.instructions import Device, Mount
from anyarch.frontend.dockerfile.mount import parse_device, parse_mount, resolve_mount, split_csv

ENV = {"type": "cache", "n": "7"}


def resolved(text: str) -> Mount:
    return resolve_mount(parse_mount(text), lambda word: expand(word, ENV).value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target=/x", Mount(target="/x")),
        ("type=bind,dst=/x,src=a,from=b,rw", Mount(target="/x", source="a", from_="b", readonly=False)),
        ("destination=/x,readonly=false", Mount(target="/x", readonly=False)),
        ("target=/x,rw=false", Mount(target="/x")),
        ("TYPE=Cache,TARGET=/x", Mount("cache", target="/x", readonly=False)),
        ("type=$type,target=/$n,id=a$n", Mount("cache", target="/7", id="a7", readonly=False)),
        ("type=cache,ro,sharing=LOCKED", Mount("cache", sharing="locked")),
        (
            "type=cache,mode=0750,uid=1,gid=$n",
            Mount("cache", readonly=False, mode=0o750, uid=1, gid=7),
        ),
        ("type=tmpfs,size=64m,target=/t", Mount("tmpfs", target="/t", size=64 << 20, readonly=False)),
        ("type=secret,id=a,required", Mount("secret", id="a", required=True)),
        ("type=secret,source=a,required=false,env=A", Mount("secret", source="a", env="A")),
        ("type=secret,id=a,env=", Mount("secret", id="a", env="")),
        ("type=ssh", Mount("ssh")),
        ('type=cache,"target=/a,b"', Mount("cache", target="/a,b", readonly=False)),
        ("from=a$,target=/x", Mount(from_="a$", target="/x")),
    ],
)
def test_mounts_resolve(text, expected):
    assert resolved(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=foo", 'unsupported mount type "foo"'),
        ("type=cach", 'unsupported mount type "cach" (did you mean cache?)'),
        ("targt=/x", "unexpected key 'targt' in 'targt=/x' (did you mean target?)"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("required", "unexpected key 'required' for mount type 'bind'"),
        ("type=cache,required=1", "unexpected key 'required' for mount type 'cache'"),
        ("size=1m,type=tmpfs", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=1x", "invalid value for size: 1x"),
        ("ro=maybe", "invalid value for ro: maybe"),
        ("rw=2", "invalid value for rw: 2"),
        ("type=cache,sharing=share", 'unsupported sharing value "share" (did you mean shared?)'),
        ("type=bind,sharing=shared", "invalid cache sharing set for bind mount"),
        ("type=secret,id=a,sharing=shared", "secret mount should not define sharing"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("type=cache,mode=8", "invalid value 8 for mode"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=cache,gid=4294967296", "invalid value 4294967296 for gid"),
        ("mode=1", 'mode not allowed for "bind" type mounts'),
        ("type=tmpfs,uid=1", 'uid not allowed for "tmpfs" type mounts'),
        ("type=tmpfs,gid=1", 'gid not allowed for "tmpfs" type mounts'),
        ("target=${", "failed to process \"${\": syntax error: missing '}'"),
    ],
)
def test_bad_mounts_say_why(text, message):
    with pytest.raises(DockerfileError) as caught:
        resolved(text)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("a", ["a"]),
        ("a,b,", ["a", "b", ""]),
        ('"a,b",c', ["a,b", "c"]),
        ('"a""b"', ['a"b']),
        ('""', [""]),
        (" a , b ", [" a ", " b "]),
    ],
)
def test_csv_fields(line, fields):
    assert split_csv(line) == fields


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "EOF"),
        ('a"b', 'parse error on line 1, column 2: bare " in non-quoted field'),
        ('é,a"', 'parse error on line 1, column 5: bare " in non-quoted field'),
        ('"a', 'parse error on line 1, column 2: extraneous or missing " in quoted-field'),
        ('"a"b', 'parse error on line 1, column 3: extraneous or missing " in quoted-field'),
    ],
)
def test_bad_csv_names_the_column(line, message):
    with pytest.raises(DockerfileError) as caught:
        split_csv(line)
    assert caught.value.message == message


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), min_size=1))
def test_quoted_fields_come_back(fields):
    line = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
    assert split_csv(line) == fields


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vendor.com/gpu", Device("vendor.com/gpu")),
        ("vendor.com/gpu=0,required", Device("vendor.com/gpu=0", required=True)),
        ("name=vendor.com/gpu=*,required=false", Device("vendor.com/gpu=*")),
    ],
)
def test_devices(text, expected):
    assert parse_device(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b", "invalid field 'b' must be a key=value pair"),
        ("a,name=b", "device name already set to a"),
        ("a,requird=1", "unexpected key 'requird' in 'requird=1' (did you mean required?)"),
        ("a,required=x", "invalid value for required: x"),
        ('"', "failed to parse csv devices: parse error on line 1, column 2"),
    ],
)
def test_bad_devices_say_why(text, message):
    with pytest.raises(DockerfileError) as caught:
        parse_device(text)
    assert caught.value.message.startswith(message)
