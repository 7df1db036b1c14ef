"""Whether two compilers for the same target were configured alike, by what stands in their programs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.dispatcher import exemptions, refusals
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from anyarch.emulation.accelerate.dispatcher import ArgumentRule

__all__ = ["check_configuration", "check_specs", "offloading_differs", "offloading_rules"]

_CONFIGURED = re.compile(rb"\.\./src/configure -v --with-pkgversion=[^\0]{1,4000}(?=\0)")
# the options that change what is compiled
_DECIDING = re.compile(
    r"--(?:with-(?:arch|cpu|tune|fpu|float|mode|abi|isa-spec|long-double)[^ =]*|"
    r"enable-(?:default-pie|default-ssp|fix-cortex[^ =]*|targets|gnu-unique-object|clocale|threads|"
    r"linker-build-id|multiarch|secureplt|initfini-array)|disable-(?:sjlj-exceptions|multilib|libquadmath)|"
    r"with-(?:default-libstdcxx-abi|linker-hash-style))(?:=\S+)?(?= |$)"
)
# specs that are long enough not to be put into the code in pieces
_SPEC_SIZE = 100
_SPECS = re.compile(rb"(?<![\t\n -~])[\t\n -~]{100,8000}(?=\0)")
_NATIVE_CPU = re.compile(
    rb"\s*%\{m[a-z]+=native:%<m[a-z]+=native %:local_cpu_detect\((?:[^()]|\([^()]*\))*\)\}"
)
# the files at both ends of a program that offloads
_OFFLOAD_FILES = re.compile(rb"\s*%\{fopenacc\|fopenmp:crtoffload(?:begin|end)(?:%O|\.o)%s\}")
_OFFLOAD_TARGETS = re.compile(rb" --enable-offload-targets=[^ \0]+")


def check_configuration(theirs: bytes, ours: bytes, path: str) -> None:
    """Raises `NotSupported` unless both make the same code by default."""
    options = []
    for raw in (theirs, ours):
        texts = set(_CONFIGURED.findall(raw))
        options.append({one for text in texts for one in _DECIDING.findall(text.decode())})
    if not options[0] or options[0] != options[1]:
        different = ", ".join(sorted(options[0] ^ options[1])) or "not known"
        raise NotSupported(f"/{path} is configured in another way: {different}")


def check_specs(theirs: bytes, ours: bytes, path: str) -> None:
    """The driver passes what its specs say; a distribution may have put its own options into those. Raises
    `NotSupported` if they differ in more than offloading."""
    own, other = (
        {
            plain
            for text in _SPECS.findall(raw)
            if text.count(b"%{") > 1
            and b"%(asm_default)" not in text  # of -mcpu=native on powerpc
            and b"COLLECT_GCC_OPTI" not in text  # constants of the code, side by side
            and len(plain := _OFFLOAD_FILES.sub(b"", _NATIVE_CPU.sub(b"", text)).strip()) >= _SPEC_SIZE
        }
        for raw in (theirs, ours)
    )
    # the linker of programs stores a text that another ends with in that one
    apart = [
        text
        for some, others in ((own, other), (other, own))
        for text in some - others
        if not any(one.endswith(text) for one in others)
    ]
    if not own or apart:
        first = min(apart, default=b"none").decode()[:80]
        raise NotSupported(f"/{path} has other specs than the native one: {first}")


def offloading_differs(theirs: bytes, ours: bytes) -> bool:
    """Whether only one of two compilers or drivers offloads, or each to other targets: then code for
    OpenMP and OpenACC differs, and what is linked with it."""
    own, other = (
        (
            {target for text in _CONFIGURED.findall(raw) for target in _OFFLOAD_TARGETS.findall(text)},
            set(_OFFLOAD_FILES.findall(raw)),
        )
        for raw in (theirs, ours)
    )
    return own != other


def offloading_rules(triplet: str, gcc: str) -> tuple[ArgumentRule, ...]:
    """What such compilers must not be asked for. Objects that offload can also be linked by naming the
    library, as CMake does; then the linker's plug-in would make programs of them."""
    names = ("openmp", "openacc", "offload", "tree-parallelize-loops")
    options = [f"{start}{name}" for start in ("-f", "--") for name in names]  # `--` stands for `-f`
    places = (f"/usr/lib/gcc/{triplet}/{gcc}", f"/usr/lib/{triplet}", f"/lib/{triplet}")
    libraries = ["-lgomp", "-l:libgomp", *(f"{place}/libgomp." for place in places)]
    return (*exemptions(("-fopenmp-simd",)), *refusals((*options, *libraries)))
