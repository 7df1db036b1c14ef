"""Credentials of registries: Auth of the session. The builder asks for those of the registries that it pulls
from and pushes to.

The methods by which a client fetches tokens itself are not served, so a builder logs in with the credential.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.api.proto import auth_pb2 as auth
from anyarch.api.rpc.server import unary

if TYPE_CHECKING:
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.registry.credentials import Credentials

__all__ = ["credential_methods"]

_HUB = frozenset({"registry-1.docker.io", "index.docker.io", "docker.io"})


def credential_methods(credentials: Credentials) -> dict[str, Handler]:
    async def give(request: auth.CredentialsRequest, _call: ServerCall) -> auth.CredentialsResponse:
        domain = "docker.io" if request.Host in _HUB else request.Host
        found = await asyncio.to_thread(credentials.get, domain)
        if found is None:
            return auth.CredentialsResponse()
        if found.identity_token:  # no name: the secret is a refresh token
            return auth.CredentialsResponse(Secret=found.identity_token)
        return auth.CredentialsResponse(Username=found.username, Secret=found.password)

    return {"/moby.filesync.v1.Auth/Credentials": unary(auth.CredentialsRequest, give)}
