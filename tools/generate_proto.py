#!/usr/bin/env python3
"""Make src/anyarch/api/proto/*_pb2.py and *_pb2.pyi of the .proto files beside them.

    .venv/bin/python tools/generate_proto.py [DIRECTORY]

With DIRECTORY the modules are written there. Needs grpcio-tools (among the development dependencies).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
PACKAGE = "anyarch/api/proto"
COMMAND = "tools/generate_proto.py"


def generate(target: Path) -> list[Path]:
    """The modules, written to `target`."""
    from grpc_tools import protoc

    written = []
    with tempfile.TemporaryDirectory() as scratch:
        names = sorted(str(path.relative_to(SOURCE)) for path in (SOURCE / PACKAGE).glob("*.proto"))
        arguments = ["protoc", f"--proto_path={SOURCE}", f"--python_out={scratch}", f"--pyi_out={scratch}"]
        if protoc.main([*arguments, *names]) != 0:
            raise SystemExit("protoc failed")
        for path in sorted((Path(scratch) / PACKAGE).iterdir()):
            text = path.read_text(encoding="utf-8")
            text = stub(text) if path.suffix == ".pyi" else module(text)
            (target / path.name).write_text(text, encoding="utf-8")
            written.append(target / path.name)
    return written


def module(text: str) -> str:
    """Of what the compiler made only the imports and the descriptors: `pool.make` makes the classes, in a
    pool of our own."""
    lines = [f"# Made by {COMMAND}; do not edit.", "from anyarch.api.proto.pool import make as _make"]
    for line in text.splitlines():
        if line.startswith("from anyarch."):
            lines.append(line)
        if line.startswith("DESCRIPTOR = "):
            raw = line.removeprefix("DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(").rstrip()
            lines.append(f"DESCRIPTOR = _make({raw.removesuffix(')')}, globals())")
    return "\n".join(lines) + "\n"


def stub(text: str) -> str:
    return f"# Made by {COMMAND}; do not edit.\n{text}"


if __name__ == "__main__":
    for made in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE / PACKAGE):
        print(made.name)
