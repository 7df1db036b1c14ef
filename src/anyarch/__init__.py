"""anyarch: one container image for many platforms, from one command.

    import anyarch

    result = anyarch.build(
        "path/to/context",
        platforms=["linux/amd64", "linux/arm64"],
        tags=["registry.example.com/app:1"],
        outputs=["type=oci,dest=app.tar"],
    )
    print(result.digest)

Names are resolved when they are first used, so `import anyarch` costs next to nothing. Errors are the
classes of `anyarch.errors`, all of them an `AnyarchError` with a `message` and a `hint`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself would cost 5 ms, a seventh of `anyarch --version`
if TYPE_CHECKING:
    from anyarch._build import build
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken, Output, PlatformResult
    from anyarch.errors import AnyarchError
    from anyarch.solver.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
    from anyarch.spec.platform import Platform
    from anyarch.version import __version__

__all__ = [
    "AnyarchError",
    "BuildRequest",
    "BuildResult",
    "CancelToken",
    "Event",
    "LogEvent",
    "Output",
    "Platform",
    "PlatformResult",
    "StatusEvent",
    "VertexEvent",
    "WarningEvent",
    "__version__",
    "build",
]

_HOMES = {
    "AnyarchError": "anyarch.errors",
    "BuildRequest": "anyarch.engine.request",
    "BuildResult": "anyarch.engine.request",
    "CancelToken": "anyarch.engine.request",
    "Event": "anyarch.solver.events",
    "LogEvent": "anyarch.solver.events",
    "Output": "anyarch.engine.request",
    "Platform": "anyarch.spec.platform",
    "PlatformResult": "anyarch.engine.request",
    "StatusEvent": "anyarch.solver.events",
    "VertexEvent": "anyarch.solver.events",
    "WarningEvent": "anyarch.solver.events",
    "__version__": "anyarch.version",
    "build": "anyarch._build",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
