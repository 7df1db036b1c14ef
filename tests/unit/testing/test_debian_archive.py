"""Which mirror and proxies the private apt takes from the machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.testing import debian_archive
from anyarch.testing.debian_archive import (
    DEFAULT_MIRROR,
    DebianArchive,
    DebianError,
    machine_mirror,
    machine_proxies,
    run_tool,
)

if TYPE_CHECKING:
    from pathlib import Path

DEB822 = """\
# first a comment
Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
URIs: http://near.example/debian
Suites: bookworm
 bookworm-updates
Components: main
"""


def write(etc: Path, name: str, text: str) -> None:
    file = etc / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_mirror_of_a_deb822_file(tmp_path: Path) -> None:
    write(tmp_path, "sources.list.d/debian.sources", DEB822)
    assert machine_mirror(tmp_path) == "http://near.example/debian"


@pytest.mark.parametrize(
    "line",
    [
        "deb http://near.example/debian bookworm main",
        "deb [signed-by=/a.gpg arch=amd64] http://near.example/debian/ trixie main contrib",
        "  deb   http://near.example/debian   stable main",
    ],
)
def test_mirror_of_a_classic_line(tmp_path: Path, line: str) -> None:
    write(tmp_path, "sources.list", f"# deb http://old.example/debian bookworm main\n{line}\n")
    assert machine_mirror(tmp_path) == "http://near.example/debian"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb http://security.example/debian-security bookworm-security main\n",
        "deb-src http://near.example/debian bookworm main\n",
        "deb http://other.example/ubuntu jammy main\n",
        "deb cdrom:[Debian]/debian bookworm main\n",
    ],
)
def test_public_mirror_where_the_machine_names_none(tmp_path: Path, text: str) -> None:
    write(tmp_path, "sources.list", text)
    assert machine_mirror(tmp_path) == DEFAULT_MIRROR


def test_disabled_stanza_does_not_count(tmp_path: Path) -> None:
    disabled = DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb")
    write(tmp_path, "sources.list.d/debian.sources", disabled)
    assert machine_mirror(tmp_path) == DEFAULT_MIRROR


def test_only_proxy_settings_are_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = 'Dir "/";\nAcquire::http::Proxy "http://proxy.example:3128";\nAcquire::Retries "3";\n'
    monkeypatch.setattr(debian_archive, "run_tool", lambda argv: dump)
    assert machine_proxies() == ['Acquire::http::Proxy "http://proxy.example:3128";']


def test_failed_tool_is_an_error_with_its_last_words() -> None:
    with pytest.raises(DebianError, match=r"status 3:\nno such suite") as caught:
        run_tool(["sh", "-c", "echo no such suite >&2; exit 3"])
    assert caught.value.hint


def test_absent_tool_is_an_error_that_names_it() -> None:
    with pytest.raises(DebianError, match="anyarch-no-such-tool is not installed"):
        run_tool(["anyarch-no-such-tool"])


def test_lists_that_a_mirror_has_only_half_come_from_the_next_suite(tmp_path, monkeypatch):
    archive = DebianArchive(tmp_path, {"bookworm": ["amd64"], "trixie": ["riscv64"]}, mirror="http://near")
    seen = []

    def apt(argv, *, cwd=None):
        seen.append((tmp_path / "etc/sources.list").read_text())
        if " sid " not in seen[-1]:
            raise DebianError("Hash Sum mismatch")

    monkeypatch.setattr(archive, "_apt", apt)
    archive._update()
    assert [[line.split()[-2] for line in text.splitlines()] for text in seen] == [
        ["bookworm", "trixie"],
        ["bookworm", "forky"],
        ["bookworm", "sid"],
    ]
    only = DebianArchive(tmp_path, {"bookworm": ["amd64"]}, mirror="http://near")
    monkeypatch.setattr(only, "_apt", apt)
    with pytest.raises(DebianError):
        only._update()
