"""Credentials from where docker and podman keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Credential", "Credentials"]


class Credential(msgspec.Struct, frozen=True):
    """User name and password, or an identity token (OAuth2 refresh token), or a ready bearer token."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


class Credentials:
    """Finds the credential of a registry. Files are read on the first question, not before."""

    def __init__(
        self, env: Mapping[str, str] | None = None, *, fixed: Mapping[str, Credential] | None = None
    ) -> None:
        """`env` stands in for os.environ; `fixed` (by registry domain) goes before all files."""

    def get(self, domain: str, repository: str = "") -> Credential | None:
        """What is known for `domain` (`docker.io`, `ghcr.io`, `localhost:5000`)."""
        return None
