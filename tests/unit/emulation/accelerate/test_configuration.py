"""Whether two compilers were configured alike."""

from __future__ import annotations

import pytest

from anyarch.emulation.accelerate.configuration import (
    check_configuration,
    check_specs,
    offloading_differs,
)
from anyarch.errors import NotSupported

START = (
    b"%{shared:; static:crt1.o%s; static-pie:rcrt1.o%s; !no-pie:Scrt1.o%s; :crt1.o%s} crti.o%s "
    b"%{static:crtbeginT.o%s; shared|static-pie|!no-pie:crtbeginS.o%s; :crtbegin.o%s}"
)
END = (
    b"%{Ofast|ffast-math|funsafe-math-optimizations:%{!shared:crtfastmath.o%s}} "
    b"%{static:crtend.o%s; shared|static-pie|!no-pie:crtendS.o%s; :crtend.o%s} crtn.o%s"
)
BEGIN_OFFLOADING = b" %{fopenacc|fopenmp:crtoffloadbegin%O%s}"
END_OFFLOADING = b" %{fopenacc|fopenmp:crtoffloadend%O%s}"
CONFIGURED = b"../src/configure -v --with-pkgversion='Debian 14.2.0-19' --enable-default-pie"
TARGETS = b" --enable-offload-targets=nvptx-none=/build/usr --enable-offload-defaulted"


def driver(*texts: bytes) -> bytes:
    """The data of a program with `texts`."""
    return b"\0" + b"".join(text + b"\0" for text in texts)


PLAIN = driver(CONFIGURED, START, END + b" ")
OFFLOADING = driver(CONFIGURED + TARGETS, START + BEGIN_OFFLOADING, END + b" " + END_OFFLOADING)


def test_a_driver_that_offloads_has_the_specs_of_one_that_does_not() -> None:
    for theirs, ours in ((OFFLOADING, PLAIN), (PLAIN, OFFLOADING)):
        check_configuration(theirs, ours, "gcc")
        check_specs(theirs, ours, "gcc")
        assert offloading_differs(theirs, ours)


@pytest.mark.parametrize("raw", [PLAIN, OFFLOADING])
def test_the_same_offloading_is_no_difference(raw: bytes) -> None:
    check_specs(raw, raw, "gcc")
    assert not offloading_differs(raw, raw)


def test_offloading_to_other_targets_and_with_specs_alone_is_a_difference() -> None:
    assert offloading_differs(OFFLOADING, OFFLOADING.replace(b"nvptx-none", b"amdgcn-amdhsa"))
    assert offloading_differs(PLAIN, PLAIN.replace(START, START + BEGIN_OFFLOADING))


@pytest.mark.parametrize(
    "other",
    [
        b" %{fopenacc|fopenmp:crtother%O%s}",
        b" %{fopenmp:crtoffloadend%O%s}",
        b" %{fopenacc|fopenmp:crtoffloadend%O%s mine.o%s}",
        b" %{fopenacc|fopenmp:crtoffloadtable%O%s}",
        b" %{pg:crtoffloadend%O%s}",
    ],
)
def test_any_other_difference_of_specs_counts(other: bytes) -> None:
    theirs = driver(CONFIGURED, START + BEGIN_OFFLOADING, END + other)

    with pytest.raises(NotSupported, match=r"^/gcc has other specs than the native one: "):
        check_specs(theirs, PLAIN, "gcc")


def test_options_that_change_code_have_to_be_equal() -> None:
    with pytest.raises(NotSupported, match="configured in another way: --enable-default-pie"):
        check_configuration(PLAIN, PLAIN.replace(b" --enable-default-pie", b" --enable-multiarch"), "gcc")
