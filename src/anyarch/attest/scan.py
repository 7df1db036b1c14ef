"""The graph of a scan for an SBOM: a step that runs the scanner's image on what was built.

The protocol is BuildKit's (docs/attestations/sbom-protocol.md): the scanner finds its sources below
`/run/src` and writes in-toto statements into `/run/out`.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import msgspec

from anyarch.attest.options import SbomOptions
from anyarch.errors import BuildError
from anyarch.llb.source import image
from anyarch.llb.state import Constraints, ExecMount, State
from anyarch.spec.oci import ImageConfig, decode
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CORE", "Scanner"]

CORE = "sbom"
_SOURCES = "/run/src/"
_OUT = "/run/out/"


class Scanner(msgspec.Struct, frozen=True):
    """`reference` is the image, `config` its config; it runs for `platform`."""

    reference: str
    config: bytes
    platform: Platform
    options: SbomOptions

    def scan(
        self, name: str, state: State, extras: Mapping[str, State], *, ignore_cache: bool = False
    ) -> State:
        """What the scanner writes about `state`; `extras` are scanned beside it. Raises `BuildError`."""
        config = decode(ImageConfig, self.config).config
        args = [*(config.entrypoint or ()), *(config.cmd or ())]
        if not args:
            raise BuildError(f"scanner {self.reference} does not have cmd")
        scanner = image(self.reference, platform=self.platform)
        root = scanner.set_dir(config.working_dir or "/")
        env = [*(config.env or ()), f"BUILDKIT_SCAN_DESTINATION={_OUT}"]
        env.append(f"BUILDKIT_SCAN_SOURCE={_SOURCES}core/{CORE}")
        if extras:
            env.append(f"BUILDKIT_SCAN_SOURCE_EXTRAS={_SOURCES}extras")
        env += [f"BUILDKIT_SCAN_{key}={value}" for key, value in sorted(self.options.parameters.items())]
        for item in env:
            key, _, value = item.partition("=")
            root = root.add_env(key, value)
        mounts = [
            ExecMount("/tmp", tmpfs=True),
            ExecMount(f"{_SOURCES}core/{CORE}", state, readonly=True),
            *(
                ExecMount(posixpath.join(_SOURCES, "extras", f"{CORE}-{key}"), extra, readonly=True)
                for key, extra in sorted(extras.items())
            ),
            ExecMount(_OUT, State()),
        ]
        constraints = Constraints(
            description={"llb.customname": f"[{name}] generating sbom using {self.reference}"},
            ignore_cache=ignore_cache,
        )
        return root.run(args, mounts=mounts, constraints=constraints).mount(_OUT)
