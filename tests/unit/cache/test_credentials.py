"""Signatures by published examples, and where credentials are looked for."""

from __future__ import annotations

import calendar
import hashlib
import json
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.cache.aws import Credentials, find_credentials, sign
from anyarch.cache.azblob import shared_key
from anyarch.cache.azure import find_token
from anyarch.cache.objects import Http
from anyarch.errors import CacheError
from anyarch.http.client import HttpClient
from anyarch.testing.object_stores import ObjectServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EMPTY = hashlib.sha256().hexdigest()
HOST = "https://examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("method", "path", "headers", "digest", "signature"),
    [
        # "Signature Calculations for the Authorization Header" of Amazon's S3 API reference.
        (
            "GET",
            "/test.txt",
            {"Range": "bytes=0-9"},
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        ("GET", "/?lifecycle", {}, EMPTY, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "GET",
            "/?max-keys=2&prefix=J",
            {},
            EMPTY,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_signatures_are_those_of_amazons_examples(
    method: str, path: str, headers: dict[str, str], digest: str, signature: str
) -> None:
    now = calendar.timegm((2013, 5, 24, 0, 0, 0))
    signed = sign(method, HOST + path, headers, digest, EXAMPLE, region="us-east-1", now=now)
    assert signed["Authorization"].rpartition("Signature=")[2] == signature


def test_a_shared_key_signs_what_azure_says_it_signs() -> None:
    # The string to sign is written out as its documentation lays it out.
    import base64
    import hmac

    secret = base64.b64encode(b"key").decode()
    url = "https://acct.blob.core.windows.net/c/a%20b?comp=block&blockid=MDA%3D"
    headers = {"x-ms-version": "2021-12-02", "x-ms-date": "D", "Content-Type": "t", "If-None-Match": "*"}
    text = (
        "PUT\n\n\n5\n\nt\n\n\n\n*\n\n\nx-ms-date:D\nx-ms-version:2021-12-02\n"
        "/acct/c/a%20b\nblockid:MDA=\ncomp:block"
    )
    expected = base64.b64encode(hmac.digest(b"key", text.encode(), "sha256")).decode()
    assert shared_key("PUT", url, headers, 5, "acct", secret) == f"SharedKey acct:{expected}"
    with pytest.raises(CacheError, match="not base64"):
        shared_key("GET", url, {}, 0, "acct", "*")


class Metadata(ObjectServer):
    """Answers what services of credentials answer."""

    def serve(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        keys = {
            "AccessKeyId": "A",
            "SecretAccessKey": "S",
            "Token": "T",
            "Expiration": "2099-01-01T00:00:00Z",
        }
        if path == "/latest/api/token":
            return 200, b"session", {}
        if path.endswith("/security-credentials/"):
            return (
                (200, b"role", {}) if headers.get("x-aws-ec2-metadata-token") == "session" else (401, b"", {})
            )
        if path.endswith("/security-credentials/role"):
            return 200, json.dumps(keys).encode(), {}
        if path == "/container":
            return (
                (200, json.dumps(keys).encode(), {})
                if headers.get("authorization") == "x"
                else (403, b"", {})
            )
        if b"AssumeRoleWithWebIdentity" in body and b"WebIdentityToken=jwt" in body:
            text = "".join(
                f"<{name}>{value}</{name}>"
                for name, value in (
                    ("AccessKeyId", "A"),
                    ("SecretAccessKey", "S"),
                    ("SessionToken", "T"),
                    ("Expiration", "2099-01-01T00:00:00Z"),
                )
            )
            return 200, text.encode(), {}
        if path == "/tenant/oauth2/v2.0/token" and b"client_id=app" in body:
            return 200, b'{"access_token":"bearer","expires_in":3600}', {}
        if path == "/metadata/identity/oauth2/token" and headers.get("metadata") == "true":
            return 200, b'{"access_token":"machine","expires_in":"3600"}', {}
        return 404, b"", {}


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as server:
        yield server


@pytest.fixture
def http() -> Iterator[Http]:
    client = HttpClient(env={})
    yield Http("test", client, None)
    client.close()


def test_what_is_given_wins_then_the_environment(http: Http) -> None:
    env = {"AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": "ES", "AWS_SESSION_TOKEN": "ET"}
    assert find_credentials("A", "S", "", region="r", http=http, env=env) == Credentials("A", "S")
    assert find_credentials("", "", "", region="r", http=http, env=env) == Credentials("E", "ES", "ET")


@pytest.mark.parametrize(
    ("name", "text", "profile", "expected"),
    [
        ("credentials", "[default]\naws_access_key_id=A\naws_secret_access_key=S%x\n", "", ("A", "S%x", "")),
        (
            "credentials",
            "[other]\naws_access_key_id=A\naws_secret_access_key=S\naws_session_token=T\n",
            "other",
            ("A", "S", "T"),
        ),
        (
            "config",
            "[profile ci]\ncredential_process = echo "
            '\'{"Version":1,"AccessKeyId":"P","SecretAccessKey":"S"}\'\n',
            "ci",
            ("P", "S", ""),
        ),
    ],
)
def test_profiles_of_the_shared_files(
    tmp_path: Path, http: Http, name: str, text: str, profile: str, expected: tuple[str, str, str]
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / name).write_text(text)
    env = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    env |= {"AWS_PROFILE": profile} if profile else {}
    env["PATH"] = "/usr/bin:/bin"
    found = find_credentials("", "", "", region="r", http=http, env=env)
    assert (found.key_id, found.secret, found.token) == expected


def test_roles_of_machines_containers_and_web_identities(
    tmp_path: Path, http: Http, metadata: Metadata
) -> None:
    (tmp_path / "jwt").write_text("jwt\n")
    for env in (
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url},
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{metadata.url}/container",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "x",
        },
        {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "jwt"),
            "AWS_ROLE_ARN": "arn:x",
            "AWS_ENDPOINT_URL_STS": metadata.url,
        },
    ):
        found = find_credentials("", "", "", region="r", http=http, env={"HOME": str(tmp_path), **env})
        assert (found.key_id, found.secret, found.token) == ("A", "S", "T")
        assert found.expires_at > time.time()
        assert not found.is_old()


def test_without_credentials_the_error_says_what_to_give(tmp_path: Path, http: Http) -> None:
    env = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.raises(CacheError, match="no credentials found") as raised:
        find_credentials("", "", "", region="r", http=http, env=env)
    assert "AWS_PROFILE" in (raised.value.hint or "")


def test_tokens_for_azure(
    tmp_path: Path, http: Http, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jwt").write_text("jwt")
    base = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "app", "AZURE_AUTHORITY_HOST": metadata.url}
    for secret in ({"AZURE_CLIENT_SECRET": "s"}, {"AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "jwt")}):
        token, until = find_token(http, {**base, **secret})
        assert token == "bearer"
        assert 3000 < until - time.time() < 3600
    machine = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": metadata.url}
    assert find_token(http, machine)[0] == "machine"
    program = tmp_path / "az"
    program.write_text('#!/bin/sh\necho \'{"accessToken":"cli","expires_on":4000000000}\'\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    nobody = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"{metadata.url}/nobody"}
    assert find_token(http, nobody)[0] == "cli"
    program.unlink()
    with pytest.raises(CacheError, match="no credentials found"):
        find_token(http, nobody)
