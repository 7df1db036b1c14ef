"""How much a request may list: more than any build needs, and little enough that one which lists for the
sake of it costs the daemon nothing worth telling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sized

    from anyarch.api.proto import control_pb2, gateway_pb2
    from anyarch.api.rpc.server import Handler

__all__ = ["check_exporters", "check_filters", "check_gateway_solve", "check_solve", "few_large_answers"]

_ATTRIBUTES = 10_000
_ITEMS = 1000
_LARGE = ("ReadFile", "ReadDir", "ReadFileContainer", "ReadDirContainer")
_AT_ONCE = 4


def few_large_answers(methods: Mapping[str, Handler]) -> dict[str, Handler]:
    """A gateway's methods by name: of some a connection gets a few answers, of up to 16 MiB, at a time."""
    turns = Turns(_AT_ONCE)
    return {name: turns.few(handler) if name in _LARGE else handler for name, handler in methods.items()}


def check_solve(request: control_pb2.SolveRequest) -> None:
    """Raises `RpcError`."""
    _check("frontend attributes", request.FrontendAttrs, _ATTRIBUTES)
    _check("frontend inputs", request.FrontendInputs)
    _check("entitlements", request.Entitlements)
    _check("outputs", request.Exporters)
    for exporter in request.Exporters:
        _check("attributes of an output", exporter.Attrs, _ATTRIBUTES)
    _check("attributes of an output", request.ExporterAttrsDeprecated, _ATTRIBUTES)
    _check("build caches", request.Cache.Imports)
    _check("build caches", request.Cache.Exports)


def check_gateway_solve(request: gateway_pb2.SolveRequest) -> None:
    """Raises `RpcError`."""
    _check("frontend attributes", request.FrontendOpt, _ATTRIBUTES)
    _check("frontend inputs", request.FrontendInputs)
    _check("build caches", request.CacheImports)
    _check("source policies", request.SourcePolicies)


def check_exporters(exporters: Sized) -> None:
    """Those that a client wants of a result. Raises `RpcError`."""
    _check("outputs", exporters)


def check_filters(filters: Sized) -> None:
    """Raises `RpcError`."""
    _check("filters", filters)


def _check(what: str, listed: Sized, limit: int = _ITEMS) -> None:
    if len(listed) > limit:
        raise RpcError(
            Code.INVALID_ARGUMENT, f"the request has {len(listed)} {what}; no more than {limit} are taken"
        )
