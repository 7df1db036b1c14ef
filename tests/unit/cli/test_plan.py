from __future__ import annotations

import anyarch.engine.plan
from anyarch.cli.main import main
from anyarch.cli.results import emulation_text
from anyarch.engine.plan import PlanRow
from anyarch.engine.request import BuildResult

EMULATED = PlanRow("build", ("linux/arm64",), "linux/arm64", "emulated", "qemu-aarch64 7.2", 3, 1, 75.0, 1)
CACHED = PlanRow("build", ("linux/amd64",), "linux/amd64", "cached", "", 3, 3, 0.0, 0)
IMPOSSIBLE = PlanRow("a", ("linux/s390x",), "linux/s390x", "impossible", "", 1, 0, None, 1, "no qemu-s390x")


def run(monkeypatch, rows, *arguments):
    requests = []

    def plan_build(request, on_event=None, cancel=None):
        requests.append(request)
        return rows

    monkeypatch.setattr(anyarch.engine.plan, "plan_build", plan_build)
    return main(["build", "--plan", "--progress=plain", "-f", "/etc/hostname", *arguments, "/"]), requests


def test_plan_is_a_table_on_standard_output(monkeypatch, capsys):
    status, (request,) = run(monkeypatch, [CACHED, EMULATED], "--platform=linux/arm64")

    out = capsys.readouterr().out.splitlines()
    assert status == 0
    assert out[1].split() == ["build", "linux/amd64", "linux/amd64", "cached", "3", "3", "-", "-"]
    assert "75.0s + 1 unknown  qemu-aarch64 7.2" in out[2]
    assert request.platforms == ("linux/arm64",)


def test_plan_fails_when_a_stage_cannot_run_here(monkeypatch, capsys):
    status, _ = run(monkeypatch, [IMPOSSIBLE])

    assert status == 1
    assert "a for linux/s390x: no qemu-s390x\n" in capsys.readouterr().out


def test_end_of_a_build_tells_what_emulation_cost_and_what_could_move():
    text = emulation_text(BuildResult(emulated_s=725.0, movable_stages=("assets",)))

    assert "12m 05s were spent in emulated steps" in text
    assert "stage assets" in text
    assert "FROM --platform=$BUILDPLATFORM" in text
    assert emulation_text(BuildResult(emulated_s=0.01)) == ""
