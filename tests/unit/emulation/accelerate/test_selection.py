"""What may have a twin."""

from __future__ import annotations

import pytest

from anyarch.emulation.accelerate.selection import (
    TARGETS,
    allowed_programs,
    arguments_of,
    conditions,
)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("package", "program"),
    [
        *[
            ("coreutils", name)
            for name in ("uname", "arch", "seq", "printf", "numfmt", "sort", "od", "stdbuf")
        ],
        *[("coreutils", name) for name in ("hostid", "who", "users", "uptime", "pinky", "shuf")],
        *[
            ("bash", "bash"),
            ("perl-base", "perl"),
            ("apt", "apt-get"),
        ],
        *[("libc-bin", "ldd"), ("libc-bin", "getconf"), ("passwd", "passwd"), ("util-linux", "su")],
    ],
)
def test_what_could_give_another_result_is_never_twinned(target: str, package: str, program: str) -> None:
    assert program not in allowed_programs(package, target)


def test_what_depends_on_word_size_or_byte_order_is_left_out_where_that_differs() -> None:
    assert "mawk" in allowed_programs("mawk", "arm64")
    assert "mawk" not in allowed_programs("mawk", "arm")
    assert "mawk" not in allowed_programs("mawk", "s390x")
    assert "date" not in allowed_programs("coreutils", "arm")
    assert "zstd" in allowed_programs("zstd", "arm64")
    assert "zstd" not in allowed_programs("zstd", "riscv64")
    assert {rule.text for rule in arguments_of("dpkg-deb", "arm")} >= {"-b", "--build"}
    assert not {rule.text for rule in arguments_of("dpkg-deb", "arm64")} & {"-b", "--build"}


def test_compiled_locales_are_for_the_byte_order_of_this_machine() -> None:
    def allowed(target: str) -> tuple[str, ...]:
        (allowed,) = {rule.allowed for rule in conditions(target)[1].rules if rule.prefix == "LC_ALL="}
        return allowed

    assert "C.UTF-8" in allowed("arm64")
    assert "C.UTF-8" not in allowed("s390x")


def test_an_unknown_architecture_has_no_twins() -> None:
    assert allowed_programs("coreutils", "mips64le") == frozenset()
