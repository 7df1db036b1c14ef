from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from anyarch.http.client import HttpClient
from anyarch.http.retry import RetryPolicy
from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credentials
from anyarch.registry.hosts import Hosts
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference

QUICK = RetryPolicy(attempts=4, budget_s=5, first_delay_s=0.001, max_delay_s=0.002, refusal_delay_s=0.001)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def second() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def connect() -> Iterator[Callable[..., Registry]]:
    """Makes clients with little patience; closes them afterwards."""
    made: list[HttpClient] = []

    def make(hosts: Hosts | None = None, credentials: Credentials | None = None) -> Registry:
        http = HttpClient(env={}, retry=QUICK, idle_timeout_s=5)
        made.append(http)
        return Registry(hosts or Hosts(), credentials or Credentials({"HOME": "/nonexistent"}), http=http)

    yield make
    for http in made:
        http.close()


@pytest.fixture
def client(connect: Callable[..., Registry]) -> Registry:
    return connect()


def pull(client: Registry, ref: Reference, descriptor: Descriptor, **more: object) -> bytes:
    """The bytes of a blob, by `fetch`."""
    out = io.BytesIO()
    client.fetch(ref, descriptor, out, **more)  # type: ignore[arg-type]
    return out.getvalue()
