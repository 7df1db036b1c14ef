"""Where Docker Desktop shows a build: said where it has been used, in buildx's words."""

from __future__ import annotations

import pytest

from anyarch.cli.results import details_text

REF = "b/b0/abc"
URL = f"docker-desktop://dashboard/build/{REF}"


@pytest.fixture
def env(tmp_path):
    (tmp_path / ".docker" / "desktop-build").mkdir(parents=True)
    (tmp_path / ".docker" / "desktop-build" / ".lastaccess").touch()
    return {"HOME": str(tmp_path)}


def test_said_as_a_link_on_a_terminal_and_plainly_elsewhere(env):
    assert details_text(REF, env, is_terminal=False) == f"\nView build details: {URL}\n"
    linked = f"\x1b]8;;{URL}\x1b\\{URL}\x1b]8;;\x1b\\"
    assert details_text(REF, env, is_terminal=True) == f"\nView build details: {linked}\n"


def test_not_said_without_docker_desktop_or_without_a_record(env, tmp_path):
    assert details_text(None, env) == ""
    assert details_text(REF, {"HOME": str(tmp_path / "other")}) == ""
    assert details_text(REF, {}) == ""
