"""How much a request may list: more than any build needs, and little enough that one which lists for the
sake of it costs the daemon nothing worth telling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.rpc.status import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import Sized

    from anyarch.api.proto import control_pb2, gateway_pb2

__all__ = ["check_filters", "check_gateway_solve", "check_solve"]

_ATTRIBUTES = 10_000
_ITEMS = 1000


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


def check_filters(filters: Sized) -> None:
    """Raises `RpcError`."""
    _check("filters", filters)


def _check(what: str, listed: Sized, limit: int = _ITEMS) -> None:
    if len(listed) > limit:
        raise RpcError(
            Code.INVALID_ARGUMENT, f"the request has {len(listed)} {what}; no more than {limit} are taken"
        )
