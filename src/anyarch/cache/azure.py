"""A token for Azure Storage, from where its tools take it: the environment, a workload identity, the machine,
the `az` command."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from anyarch.errors import CacheError, NetworkError
from anyarch.http.retry import IMPATIENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.cache.objects import Http

__all__ = ["find_token"]

_RESOURCE = "https://storage.azure.com/"
_SOON_S = 300


def find_token(http: Http, env: Mapping[str, str] | None = None) -> tuple[str, float]:
    """A bearer token, and until when it is to be used. Raises `CacheError`."""
    env = os.environ if env is None else env
    found = _application(http, env) or _machine(env) or _command()
    if found is None:
        raise CacheError(
            "azblob cache: no credentials found",
            hint="give secret_access_key, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET,"
            " or run az login",
        )
    return found


def _application(http: Http, env: Mapping[str, str]) -> tuple[str, float] | None:
    """A secret or a federated token of an application."""
    tenant, client = env.get("AZURE_TENANT_ID"), env.get("AZURE_CLIENT_ID")
    path = env.get("AZURE_FEDERATED_TOKEN_FILE")
    if not tenant or not client or not (env.get("AZURE_CLIENT_SECRET") or path):
        return None
    form = {"client_id": client, "scope": f"{_RESOURCE}.default", "grant_type": "client_credentials"}
    if env.get("AZURE_CLIENT_SECRET"):
        form["client_secret"] = env["AZURE_CLIENT_SECRET"]
    elif path:
        try:
            with open(path, encoding="utf-8") as file:
                form["client_assertion"] = file.read().strip()
        except OSError as error:
            raise CacheError(f"azblob cache: cannot read {path}: {error.strerror}") from None
        form["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    authority = env.get("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com").rstrip("/")
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    url = f"{authority}/{tenant}/oauth2/v2.0/token"
    response = http.request("POST", url, headers=headers, body=urlencode(form).encode(), whole=1 << 20)
    if response.status != 200:
        from anyarch.cache.objects import failure

        raise failure("azblob cache", response, "asking for a token")
    with response:
        return _of(json.loads(response.read_all(1 << 20)))


def _machine(env: Mapping[str, str]) -> tuple[str, float] | None:
    """The managed identity of a virtual machine."""
    from anyarch.http.client import HttpClient

    base = env.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://169.254.169.254").rstrip("/")
    query = {"api-version": "2018-02-01", "resource": _RESOURCE}
    if env.get("AZURE_CLIENT_ID"):
        query["client_id"] = env["AZURE_CLIENT_ID"]
    client = HttpClient(env={}, connect_timeout_s=1.0, idle_timeout_s=5.0, retry=IMPATIENT)
    try:
        url = f"{base}/metadata/identity/oauth2/token?{urlencode(query)}"
        answer = client.request("GET", url, headers={"Metadata": "true"}, whole=1 << 20)
        with answer:
            return _of(json.loads(answer.read_all(1 << 20))) if answer.status == 200 else None
    except (NetworkError, ValueError, KeyError):
        return None  # this is no such machine
    finally:
        client.close()


def _command() -> tuple[str, float] | None:
    """Who is logged in with the `az` command."""
    import shutil
    import subprocess

    program = shutil.which("az")
    if program is None:
        return None
    argv = [program, "account", "get-access-token", "--resource", _RESOURCE, "-o", "json"]
    try:
        done = subprocess.run(argv, capture_output=True, check=True, timeout=60)
        found = json.loads(done.stdout)
        return str(found["accessToken"]), float(found.get("expires_on") or time.time() + 600) - _SOON_S
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise CacheError(f"azblob cache: az account get-access-token failed: {error}") from None


def _of(found: Mapping[str, Any]) -> tuple[str, float]:
    return str(found["access_token"]), time.time() + float(found.get("expires_in") or 600) - _SOON_S
