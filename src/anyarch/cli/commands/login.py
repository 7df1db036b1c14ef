"""`anyarch login`: credentials for a registry, kept where docker and podman find them too."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "login",
    summary="Log in to a registry",
    usage="login [OPTIONS] [SERVER]",
    description=(
        "Ask the registry whether it takes a user name and password, and keep them as `docker login` does: "
        "in $REGISTRY_AUTH_FILE or docker's config.json, or with the credential helper that is named there. "
        "Without SERVER it is Docker Hub."
    ),
    arguments=(("SERVER", "host[:port] of the registry"),),
    least=0,
    most=1,
    flags=(
        Flag("password", "Password (seen by other users of this machine)", short="p", metavar="PASSWORD"),
        Flag("password-stdin", "Take the password from standard input"),
        Flag("username", "User name", short="u", metavar="NAME"),
    ),
    examples=(("With a token from a file", "anyarch login -u me --password-stdin ghcr.io < token"),),
)


def run(parsed: Parsed) -> int:
    """Raises `UsageError`, `Unauthorized`, `RegistryError`, `OutputError`."""
    from anyarch.cli.dispatch import stderr
    from anyarch.registry import login
    from anyarch.registry.client import Registry
    from anyarch.registry.credentials import HUB_KEY, Credential, Credentials
    from anyarch.registry.hosts import Hosts

    server = parsed.args[0] if parsed.args else "docker.io"
    key = login.key_of(server)
    domain = "docker.io" if key == HUB_KEY else key
    username, password = _ask(parsed)
    credential = Credential(username, password)
    client = Registry(Hosts.load(), Credentials(fixed={domain: credential}))
    try:
        client.check_login(domain)
    finally:
        client.close()
    where = login.save(server, credential)
    if "/" in where:
        print(
            f"WARNING! Your credentials are stored unencrypted in '{where}'.\n"
            "Configure a credential helper to remove this warning.",
            file=stderr(),
        )
    print("Login Succeeded")
    return 0


def _ask(parsed: Parsed) -> tuple[str, str]:
    from anyarch.cli.dispatch import stderr

    username, password = parsed.text("username"), parsed.text("password")
    if parsed.switch("password-stdin"):
        if password is not None:
            raise UsageError("--password and --password-stdin are mutually exclusive")
        if not username:
            raise UsageError("Must provide --username with --password-stdin")
        text = sys.stdin.read() if sys.stdin is not None else ""
        password = text.removesuffix("\n").removesuffix("\r")
    elif password is not None:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=stderr())
    if username and password is not None:
        if not password:
            raise UsageError("password is empty")
        return username, password
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "Cannot perform an interactive login from a non TTY device",
            hint="give --username and --password-stdin",
        )
    if not username:
        username = input("Username: ").strip()
    if password is None:
        import getpass

        password = getpass.getpass("Password: ")
    if not username or not password:
        raise UsageError("username and password are needed")
    return username, password
