"""Credentials of Amazon's services, found where its tools look for them, and their signature (version 4)."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from anyarch.errors import CacheError, NetworkError
from anyarch.http.retry import IMPATIENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.cache.objects import Http

__all__ = ["Credentials", "find_credentials", "sign", "xml_element"]

_SOON_S = 120


class Credentials(msgspec.Struct, frozen=True):
    """`expires_at` in seconds since the epoch, 0 for never."""

    key_id: str
    secret: str
    token: str = ""
    expires_at: float = 0.0

    def is_old(self) -> bool:
        """Whether they end soon or have ended."""
        return bool(self.expires_at) and time.time() > self.expires_at - _SOON_S


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    digest: str,
    credentials: Credentials,
    *,
    region: str,
    now: float,
    service: str = "s3",
) -> dict[str, str]:
    """`headers` with the signature of a request whose body has the SHA-256 `digest` (hex). `url` is encoded
    as it is sent."""
    parts = urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    port = {"http": 80, "https": 443}[parts.scheme]
    host = parts.hostname or ""
    label = f"[{host}]" if ":" in host else host
    signed = {
        **headers,
        "Host": label if parts.port in (None, port) else f"{label}:{parts.port}",
        "x-amz-content-sha256": digest,
        "x-amz-date": stamp,
    }
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in signed.items())
    names = ";".join(name for name, _ in lines)
    query = sorted(
        (quote(key, safe="-_.~"), quote(value, safe="-_.~"))
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    canonical = "\n".join(
        (
            method,
            parts.path or "/",
            "&".join(f"{key}={value}" for key, value in query),
            *(f"{name}:{value}" for name, value in lines),
            "",
            names,
            digest,
        )
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{scope}, SignedHeaders={names},"
        f" Signature={signature}"
    )
    return signed


def find_credentials(
    key_id: str,
    secret: str,
    token: str,
    *,
    region: str,
    http: Http,
    env: Mapping[str, str] | None = None,
) -> Credentials:
    """Those given; else those of the environment, a web identity, the shared files, a container, or the
    machine. Raises `CacheError` saying where was looked."""
    env = os.environ if env is None else env
    if key_id and secret:
        return Credentials(key_id, secret, token)
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        return Credentials(
            env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN", "")
        )
    found = (
        _web_identity(env, region, http) or _shared_files(env) or _container(env, http) or _machine(env, http)
    )
    if found is None:
        raise CacheError(
            "s3 cache: no credentials found",
            hint="give access_key_id and secret_access_key, or set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    return found


def _web_identity(env: Mapping[str, str], region: str, http: Http) -> Credentials | None:
    path, role = env.get("AWS_WEB_IDENTITY_TOKEN_FILE"), env.get("AWS_ROLE_ARN")
    if not path or not role:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read().strip()
    except OSError as error:
        raise CacheError(f"s3 cache: cannot read {path}: {error.strerror}") from None
    endpoint = env.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{region}.amazonaws.com"
    session = env.get("AWS_ROLE_SESSION_NAME") or f"anyarch-{os.getpid()}"
    query = "&".join(
        f"{key}={quote(value, safe='')}"
        for key, value in (
            ("Action", "AssumeRoleWithWebIdentity"),
            ("RoleArn", role),
            ("RoleSessionName", session),
            ("Version", "2011-06-15"),
            ("WebIdentityToken", token),
        )
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = http.request("POST", f"{endpoint}/", headers=headers, body=query.encode(), whole=1 << 20)
    if response.status != 200:
        from anyarch.cache.objects import failure

        raise failure("s3 cache", response, f"taking the role {role}")
    raw = response.read_all(1 << 20)
    response.close()
    return Credentials(
        xml_element(raw, "AccessKeyId"),
        xml_element(raw, "SecretAccessKey"),
        xml_element(raw, "SessionToken"),
        _time(xml_element(raw, "Expiration")),
    )


def _shared_files(env: Mapping[str, str]) -> Credentials | None:
    """`~/.aws/credentials`, then `~/.aws/config`, for `AWS_PROFILE`."""
    from configparser import ConfigParser, Error

    profile = env.get("AWS_PROFILE") or "default"
    home = os.path.join(env.get("HOME") or "/", ".aws")
    places = (
        (env.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/credentials", profile),
        (env.get("AWS_CONFIG_FILE") or f"{home}/config", _section(profile)),
    )
    for path, section in places:
        parser = ConfigParser(interpolation=None)
        try:
            with open(path, encoding="utf-8") as file:
                parser.read_file(file)
        except FileNotFoundError:
            continue
        except (OSError, Error, UnicodeDecodeError) as error:
            raise CacheError(f"s3 cache: {path} cannot be read: {error}") from None
        if parser.has_option(section, "aws_access_key_id"):
            get = parser[section].get
            return Credentials(
                get("aws_access_key_id", ""),
                get("aws_secret_access_key", ""),
                get("aws_session_token", ""),
            )
        if parser.has_option(section, "credential_process"):
            return _process(parser[section]["credential_process"])
    return None


def _section(profile: str) -> str:
    return profile if profile == "default" else f"profile {profile}"


def _process(command: str) -> Credentials:
    """What a profile's own command prints (the user's configuration names it)."""
    import shlex
    import subprocess

    try:
        done = subprocess.run(shlex.split(command), capture_output=True, check=True, timeout=60)
        return _of_json(json.loads(done.stdout), "SessionToken")
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise CacheError(f"s3 cache: the credential_process of the profile failed: {error}") from None


def _container(env: Mapping[str, str], http: Http) -> Credentials | None:
    relative, full = (env.get(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI", "") for kind in ("RELATIVE", "FULL"))
    url = f"http://169.254.170.2{relative}" if relative else full
    if not url:
        return None
    token = env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
    path = env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                token = file.read().strip()
        except OSError as error:
            raise CacheError(f"s3 cache: cannot read {path}: {error.strerror}") from None
    return _of_json(_get(http, url, {"Authorization": token} if token else {}), "Token")


def _machine(env: Mapping[str, str], http: Http) -> Credentials | None:
    """The role of an EC2 instance (IMDS version 2)."""
    if env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    base = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    from anyarch.http.client import HttpClient

    client = HttpClient(env={}, connect_timeout_s=1.0, idle_timeout_s=5.0, retry=IMPATIENT)
    try:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
        answer = client.request("PUT", f"{base}/latest/api/token", headers=headers, whole=1 << 16)
        if answer.status != 200:
            answer.discard()
            return None
        token = {"X-aws-ec2-metadata-token": answer.read_all(1 << 16).decode()}
        answer.close()
        path = f"{base}/latest/meta-data/iam/security-credentials/"
        answer = client.request("GET", path, headers=token, whole=1 << 16)
        if answer.status != 200:
            answer.discard()
            return None
        role = answer.read_all(1 << 16).decode().split("\n")[0].strip()
        answer.close()
        answer = client.request("GET", path + quote(role), headers=token, whole=1 << 16)
        with answer:
            return _of_json(json.loads(answer.read_all(1 << 16)), "Token")
    except NetworkError:
        return None  # this is no such machine
    finally:
        client.close()


def _get(http: Http, url: str, headers: dict[str, str]) -> Any:
    response = http.request("GET", url, headers=headers, whole=1 << 20)
    if response.status != 200:
        from anyarch.cache.objects import failure

        raise failure("s3 cache", response, "asking for credentials")
    with response:
        return json.loads(response.read_all(1 << 20))


def _of_json(found: Mapping[str, Any], token: str) -> Credentials:
    return Credentials(
        str(found["AccessKeyId"]),
        str(found["SecretAccessKey"]),
        str(found.get(token) or ""),
        _time(str(found.get("Expiration") or "")),
    )


def _time(text: str) -> float:
    from anyarch.spec.timestamp import parse_time

    return (parse_time(text) or 0.0) if text else 0.0


def xml_element(raw: bytes, name: str) -> str:
    """The text of the first element of that name in an answer of the service; "" without one."""
    import html
    import re

    match = re.search(rf"<{name}>([^<]*)</{name}>", raw.decode("utf-8", "replace"))
    return html.unescape(match[1]) if match is not None else ""
