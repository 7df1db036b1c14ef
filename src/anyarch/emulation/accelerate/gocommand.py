"""The `go` command for this machine that is another architecture's in all that it tells and decides.

What it knows of its architecture is the constant `runtime.GOARCH`, in a dozen places of its source: the
default of GOARCH, GOHOSTARCH, where its tools are, whether cgo is on, which toolchain it downloads. So it is
compiled once more from the sources that the root has, by the native tools of the same release, with the
target's name in those places; the defaults that its builders have chosen (`zbootstrap.go`: GOARM and the
like) are the target's as they stand. Where it looks for GOROOT from (`os.Executable`) becomes the path of the
program that it stands for. The packages that run on this machine (`runtime`, `os`, `syscall` …) stay as they
are.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.elf.header import machine_name
from anyarch.emulation.accelerate.chains import Work
from anyarch.emulation.accelerate.natives import read_file
from anyarch.errors import NotSupported, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["is_static", "rewritten", "sources", "work"]

_LOWEST = 18  # Go 1.18: -overlay, -buildvcs
_PLACE = "/run/work"
"""Where the sandbox has what comes with the work, and what comes of it."""
_SOURCES = (
    *("cmd/go", "cmd/internal", "go/build", "internal/buildcfg", "internal/platform"),
    "cmd/vendor/golang.org/x/telemetry",
)
"""Packages that tell the architecture of the command, not of the machine that it runs on."""

# what has no meaning of its own is passed over: comments, texts, runes
_TOKEN = re.compile(
    rb"//[^\n]*|/\*.*?\*/|`[^`]*`|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    rb"|(?<![\w.])runtime\.GOARCH\b|(?<![\w.])os\.Executable\(\)",
    re.DOTALL,
)


def rewritten(source: bytes, *, target: str, program: str) -> bytes:
    """A Go source file in which the architecture is `target` and the running program's path `program`."""
    used = set()

    def change(match: re.Match[bytes]) -> bytes:
        match match[0]:
            case b"runtime.GOARCH":
                used.add(b"const _ = runtime.GOOS\n")
                return f'string("{target}")'.encode()
            case b"os.Executable()":
                used.add(b"var _ = os.Args\n")
                return f'func() (string, error) {{ return "{program}", nil }}()'.encode()
        return match[0]

    changed = _TOKEN.sub(change, source)
    # an import that is not used is an error
    return changed + b"\n" + b"".join(sorted(used)) if used else source


def sources(root: Packages, directory: str) -> Iterator[tuple[str, bool]]:
    """Files below `directory` that a compiled command depends on, and whether each is a file."""
    for node in root.tree.walk(directory):
        path = node.entry.path
        if node.entry.kind is Kind.DIRECTORY or "/testdata/" in path or path.endswith("_test.go"):
            continue
        yield path, node.entry.kind in (Kind.FILE, Kind.HARDLINK)


def work(
    name: str, root: Packages, directory: str, *, command: str, minor: int, target: str, native: int
) -> Work:
    """How a command (`go`, `link`) of the tree `directory` is made by the `go` of the `native`th native tree.
    Raises `NotSupported` for a Go that is too old or has no sources."""
    if minor < _LOWEST:
        raise NotSupported(f"Go 1.{minor} is older than 1.{_LOWEST}")
    try:
        source, include = (root.tree.resolve(f"{directory}/{part}") for part in ("src", "pkg/include"))
        parts = _SOURCES if command == "go" else (*_SOURCES, f"cmd/{command}")
        changed = dict(_changed(root, source, parts, target, f"/{directory}/bin/go"))
    except PathNotFound:
        raise NotSupported("the sources of the go command are missing") from None
    if f"{source}/internal/buildcfg/zbootstrap.go" not in changed:
        raise NotSupported("the sources of the go command are not as expected")
    files = {f"{number}.go": data for number, data in enumerate(changed.values())}
    replaced = {
        f"/{directory}/src{path.removeprefix(source)}": f"{_PLACE}/{number}.go"
        for number, path in enumerate(changed)
    }
    files["overlay.json"] = json.dumps({"Replace": replaced}).encode()
    options = ["-trimpath", "-buildvcs=false", "-ldflags=-s -w", f"-overlay={_PLACE}/overlay.json"]
    if minor >= 21:
        options.append("-pgo=off")
    return Work(
        name=name,
        argv=(f"/{directory}/bin/go", "build", *options, "-o", f"{_PLACE}/{command}", f"cmd/{command}"),
        env=(
            *("PATH=/usr/bin:/bin", f"HOME={_PLACE}", f"GOCACHE={_PLACE}/cache", f"GOPATH={_PLACE}/path"),
            *("GOENV=off", "GOFLAGS=", "GOPROXY=off", "GOTOOLCHAIN=local", "GOTELEMETRY=off"),
            *("CGO_ENABLED=0", "GO111MODULE=on", "GOWORK=off"),
        ),
        place=_PLACE,
        files=tuple(files.items()),
        product=command,
        native=native,
        from_native=directory,
        from_root=((source, f"/{directory}/src"), (include, f"/{directory}/pkg/include")),
    )


def is_static(program: bytes, host: str) -> bool:
    """Whether it is a program of `host` that needs no loader."""
    from anyarch.elf.binary import inspect

    found = inspect(lambda offset, size: program[offset : offset + size])
    return machine_name(program[:64]) == host and found is not None and not found.interpreter


def _changed(
    root: Packages, source: str, parts: Sequence[str], target: str, program: str
) -> Iterator[tuple[str, bytes]]:
    for part in parts:
        if root.tree.lookup(f"{source}/{part}") is None:
            continue  # not of this version of Go
        for path, is_file in sources(root, f"{source}/{part}"):
            if is_file and path.endswith(".go"):
                raw = read_file(root, path)
                changed = rewritten(raw, target=target, program=program)
                if changed is not raw:
                    yield path, changed
