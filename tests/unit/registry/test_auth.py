from __future__ import annotations

import io
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.errors import RegistryError, Unauthorized
from anyarch.registry.auth import Challenge, merge_scopes, parse_challenges
from anyarch.registry.credentials import Credential, Credentials
from anyarch.registry.hosts import HostConfig, Hosts
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Descriptor
from anyarch.spec.reference import Reference
from anyarch.testing.registry import FakeRegistry

from .conftest import pull

BIG = random.Random(3).randbytes(3 << 20)
ME = Credential("me", "secret")


# challenges
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            [
                'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull,push"'
            ],
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a:pull,push",
                    },
                )
            ],
        ),
        (['Basic realm="x"'], [Challenge("basic", {"realm": "x"})]),
        (
            ["Negotiate", "Basic realm=plain"],
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "plain"})],
        ),
        (
            ['Basic realm="a", Bearer realm="b" , error="invalid_token"'],
            [
                Challenge("basic", {"realm": "a"}),
                Challenge("bearer", {"realm": "b", "error": "invalid_token"}),
            ],
        ),
        ([r'Basic realm="say \"hi\", you"'], [Challenge("basic", {"realm": 'say "hi", you'})]),
        (["BEARER Realm=x"], [Challenge("bearer", {"realm": "x"})]),
        ([""], []),
        (["=,="], []),
    ],
)
def test_challenges_are_parsed(headers, expected):
    assert parse_challenges(headers) == expected


@given(st.lists(st.text(max_size=60), max_size=3))
def test_no_header_breaks_the_parser(headers):
    parse_challenges(headers)


def test_scopes_of_the_same_resource_are_joined():
    scopes = ["repository:b:pull", "repository:a:push repository:b:push", "repository:a:pull"]
    assert merge_scopes(scopes) == ("repository:a:pull,push", "repository:b:pull,push")


# tokens
# -------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded():
    with FakeRegistry(auth="token", users={"me": "secret"}, anonymous_pull=True) as registry:
        yield registry


def reference(fake):
    return Reference.parse(f"{fake.address}/lib/tiny:latest")


def with_login(fake, credential=ME):
    return Credentials({"HOME": "/nonexistent"}, fixed={fake.address: credential})


def descriptor_of(raw):
    return Descriptor(media.OCI_LAYER_TAR, Digest.of(raw), len(raw))


def test_an_anonymous_pull_gets_one_token_and_no_second_refusal(client, guarded):
    guarded.add_image("lib/tiny", "latest", [BIG])
    client.resolve(reference(guarded))
    client.manifest(reference(guarded))
    pull(client, reference(guarded), descriptor_of(BIG))
    assert guarded.count("GET", "^/token") == 1
    assert guarded.count(status=401) == 1
    assert guarded.connections == 1
    query = guarded.requests("GET", "^/token")[0].path
    assert query == "/token?service=fake-service&scope=repository:lib/tiny:pull"


def test_threads_share_one_token(client, guarded):
    guarded.add_image("lib/tiny", "latest")
    client.resolve(reference(guarded))
    guarded.revoke_tokens()
    client._transport._authorizer._tokens.clear()
    guarded.clear_log()
    guarded.fault("GET", "^/token", delay_s=0.05)
    threads = [threading.Thread(target=client.resolve, args=(reference(guarded),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guarded.count("GET", "^/token") == 1


def test_a_login_allows_to_push(connect, guarded):
    client = connect(credentials=with_login(guarded))
    raw = bytes(2 << 20)
    assert client.push_blob(reference(guarded), descriptor_of(raw), lambda: io.BytesIO(raw))
    assert guarded.count("GET", "^/token") == 1


def test_a_mount_asks_for_both_repositories(connect, guarded):
    guarded.add_blob("lib/base", BIG)
    client = connect(credentials=with_login(guarded))
    assert not client.push_blob(
        reference(guarded), descriptor_of(BIG), lambda: io.BytesIO(BIG), mount_from="lib/base"
    )
    assert "repository:lib/base:pull" in guarded.requests("GET", "^/token")[-1].path


def test_a_push_without_login_is_denied(client, guarded):
    with pytest.raises(Unauthorized) as caught:
        client.push_blob(reference(guarded), descriptor_of(b"x"), lambda: io.BytesIO(b"x"))
    assert "access denied" in caught.value.message
    assert f"anyarch login {guarded.address}" in caught.value.hint


def test_a_wrong_password_is_named(connect, guarded):
    client = connect(credentials=with_login(guarded, Credential("me", "wrong")))
    with pytest.raises(Unauthorized, match="the credentials of me were refused") as caught:
        client.resolve(reference(guarded))
    assert "anyarch login" in caught.value.hint
    assert "wrong" not in caught.value.message


def test_a_private_registry_without_login_is_denied(connect):
    with (
        FakeRegistry(auth="token", users={"me": "secret"}) as fake,
        pytest.raises(Unauthorized, match="without credentials"),
    ):
        connect().resolve(reference(fake))


def test_an_expired_token_is_replaced_in_the_middle(client, guarded):
    guarded.add_image("lib/tiny", "latest", [BIG])
    client.resolve(reference(guarded))
    guarded.revoke_tokens()
    assert pull(client, reference(guarded), descriptor_of(BIG)) == BIG
    assert guarded.count("GET", "^/token") == 2


def test_a_token_is_not_used_past_its_time(client, guarded):
    guarded.add_image("lib/tiny", "latest")
    guarded.token_life_s = 0
    for _ in range(2):
        with pytest.raises(Unauthorized):
            client.resolve(reference(guarded))
    guarded.token_life_s = 300
    client.resolve(reference(guarded))


def test_a_token_that_expires_during_an_upload_is_replaced(connect, guarded):
    client = connect(credentials=with_login(guarded))
    guarded.fault(
        "POST", "uploads", status=401, headers={"WWW-Authenticate": f'Bearer realm="{guarded.url}/token"'}
    )
    assert client.push_blob(reference(guarded), descriptor_of(BIG), lambda: io.BytesIO(BIG))


def test_an_identity_token_is_exchanged(connect):
    with FakeRegistry(auth="token", identity_tokens={"refresh-me": "me"}) as fake:
        blob = fake.add_image("lib/tiny", "latest")
        client = connect(credentials=with_login(fake, Credential(identity_token="refresh-me")))
        assert client.resolve(reference(fake))[0] == blob.digest
        assert fake.count("POST", "^/token") == 1


def test_a_ready_token_is_sent_as_it_is(connect, guarded):
    guarded.add_image("lib/tiny", "latest")
    token = guarded.issue_token(frozenset({"repository:lib/tiny:pull"}))
    client = connect(credentials=with_login(guarded, Credential(registry_token=token)))
    client.resolve(reference(guarded))
    assert guarded.count("", "^/token") == 0


def test_a_token_service_that_fails_is_named(client, guarded):
    guarded.fault("GET", "^/token", status=503, times=100)
    with pytest.raises(RegistryError, match=r"no token from .*/token: 503"):
        client.resolve(reference(guarded))


@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"token": 5}'])
def test_a_token_service_that_makes_no_sense_is_named(client, guarded, body):
    guarded.fault("GET", "^/token", status=200, body=body)
    with pytest.raises(RegistryError, match="token"):
        client.resolve(reference(guarded))


def test_a_flaky_token_service_is_asked_again(client, guarded):
    guarded.add_image("lib/tiny", "latest")
    guarded.fault("GET", "^/token", status=502, times=2)
    client.resolve(reference(guarded))


def test_credentials_of_the_registry_are_not_shown_to_its_mirror(connect, second):
    with FakeRegistry(auth="token", users={"me": "secret"}) as fake:
        blob = fake.add_image("lib/tiny", "latest")
        hosts = Hosts({fake.address: HostConfig(mirrors=(second.address,))})
        client = connect(hosts, with_login(fake))
        assert client.resolve(reference(fake))[0] == blob.digest
    assert "authorization" not in second.log[0].headers


def test_redirected_downloads_do_not_show_the_token(client, guarded):
    guarded.add_image("lib/tiny", "latest", [BIG])
    guarded.redirect_blobs = "localhost"
    assert pull(client, reference(guarded), descriptor_of(BIG)) == BIG


# basic
# --------------------------------------------------------------------------------------------------------


@pytest.fixture
def basic():
    with FakeRegistry(auth="basic", users={"me": "secret"}) as registry:
        yield registry


def test_basic_authentication_works(connect, basic):
    client = connect(credentials=with_login(basic))
    blob = basic.add_image("lib/tiny", "latest")
    assert client.resolve(reference(basic))[0] == blob.digest
    assert client.manifest(reference(basic)) == blob
    assert basic.count(status=401) == 1


@pytest.mark.parametrize("credential", [None, Credential("me", "wrong")])
def test_basic_authentication_that_fails_names_the_login(connect, basic, credential):
    client = connect(credentials=with_login(basic, credential) if credential else None)
    with pytest.raises(Unauthorized, match="access denied") as caught:
        client.resolve(reference(basic))
    assert f"anyarch login {basic.address}" in caught.value.hint
    assert basic.count() <= 2


def test_a_missing_helper_is_part_of_the_hint(connect, basic, tmp_path):
    (tmp_path / "config.json").write_text('{"credsStore": "not-installed"}')
    client = connect(credentials=Credentials({"DOCKER_CONFIG": str(tmp_path), "PATH": str(tmp_path)}))
    with pytest.raises(Unauthorized) as caught:
        client.resolve(reference(basic))
    assert "docker-credential-not-installed is not installed" in caught.value.hint
