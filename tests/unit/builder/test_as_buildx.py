"""Builds on a daemon as programs see them that know buildx: files, texts and status."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING

from anyarch.worker.session import Lent, LentSecret
from tests.unit.daemon.harness import anyarch, daemon, run, tree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.unit.daemon.harness import Answer

PLAIN = "FROM scratch\nCOPY Dockerfile /made\n"
CASED = "\nfrOM scratch as base\ncOpy Dockerfile .\n"


def with_builder(home: Path, work: Callable[[Callable[..., Awaitable[Answer]]], Awaitable[None]]) -> None:
    """Do `work` with a command line whose builder `d` is a daemon."""
    run_command = partial(anyarch, home)

    async def all_of_it() -> None:
        async with daemon(home):
            made = await run_command(
                "create", "--use", "--name", "d", "--driver", "remote", f"unix://{home}/d.sock"
            )
            assert made.status == 0, made.err
            await work(run_command)

    run(all_of_it())


def test_plain_progress_begins_with_the_builder(tmp_path: Path) -> None:
    tree(tmp_path / "c", Dockerfile=PLAIN)

    async def work(anyarch: Callable[..., Awaitable[Answer]]) -> None:
        answer = await anyarch("build", "--progress=plain", "-o", "type=cacheonly", "c")
        assert answer.status == 0, answer.err
        assert answer.err.startswith('#0 building with "d" instance using remote driver\n\n#1 ')

    with_builder(tmp_path, work)


def test_a_check_names_the_dockerfile_as_it_was_given_and_its_answer_is_in_the_metadata(
    tmp_path: Path,
) -> None:
    tree(tmp_path / "c", other=CASED)

    async def work(anyarch: Callable[..., Awaitable[Answer]]) -> None:
        file = str(tmp_path / "c" / "other")
        answer = await anyarch("build", "--check", "-f", file, "--metadata-file", "md", "c")
        assert answer.status == 1
        assert "Check complete, 2 warnings have been found!" in answer.out
        assert f"\n{file}:2\n" in answer.out
        assert f"\n{file}:3\n" in answer.out
        found = json.loads((tmp_path / "md").read_text())
        assert len(found["result.json"]["warnings"]) == 2
        assert "buildx.build.ref" not in found

    with_builder(tmp_path, work)


def test_a_local_output_that_deletes_leaves_the_result_alone(tmp_path: Path) -> None:
    tree(tmp_path / "c", Dockerfile=PLAIN)
    (tmp_path / "out" / "below").mkdir(parents=True)
    (tmp_path / "out" / "below" / "stale").write_text("stale")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "c")

    async def work(anyarch: Callable[..., Awaitable[Answer]]) -> None:
        answer = await anyarch("build", "-o", "type=local,dest=out,mode=delete", "c")
        assert answer.status == 0, answer.err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["made"]
        assert (tmp_path / "c" / "Dockerfile").exists()
        elsewhere = await anyarch("build", "-o", "type=local,dest=..,mode=delete", "c")
        assert elsewhere.status == 1
        assert "requires --allow=buildx.local.delete" in elsewhere.err

    with_builder(tmp_path, work)


def test_directories_above_an_archive_are_made(tmp_path: Path) -> None:
    tree(tmp_path / "c", Dockerfile=PLAIN)

    async def work(anyarch: Callable[..., Awaitable[Answer]]) -> None:
        for builder in ("d", "default"):
            dest = tmp_path / builder / "new" / "x.tar"
            answer = await anyarch("build", "--builder", builder, "-o", f"type=tar,dest={dest}", "c")
            assert answer.status == 0, answer.err
            assert dest.stat().st_size

    with_builder(tmp_path, work)


def test_a_proxy_says_its_builder_when_progress_is_asked_for(tmp_path: Path) -> None:
    async def work(anyarch: Callable[..., Awaitable[Answer]]) -> None:
        answer = await anyarch("dial-stdio", "--progress", "auto")
        assert answer.status == 0
        assert answer.err == "#0 builder: d\n\n"
        assert (await anyarch("dial-stdio")).err == ""
        wrong = await anyarch("dial-stdio", "--progress", "loud")
        assert wrong.status == 1
        assert "invalid progress mode loud" in wrong.err

    with_builder(tmp_path, work)


def test_a_secret_may_come_through_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"told once")
    os.close(writer)
    lent = Lent(secrets={"s": LentSecret(source=f"/dev/fd/{reader}")})
    lent.check()
    assert [lent.secret("s"), lent.secret("s")] == [b"told once", b"told once"]
    os.close(reader)


def test_what_makes_no_sense_is_refused_in_the_words_of_buildx(tmp_path: Path) -> None:
    tree(tmp_path / "c", Dockerfile=PLAIN)

    async def work(anyarch: Callable[..., Awaitable[Answer]]) -> None:
        empty = await anyarch("build", "--build-arg", "BUILDKIT_SYNTAX= ", "c")
        assert empty.status == 1
        assert (
            "empty BUILDKIT_SYNTAX build-arg is invalid, use --build-arg BUILDKIT_SYNTAX without '=' for "
            "optional behavior"
        ) in empty.err
        gateway = await anyarch("build", "--add-host", "a:host-gateway", "-o", "type=cacheonly", "c")
        assert gateway.status == 1
        assert "host-gateway is not supported by the" in gateway.err

    with_builder(tmp_path, work)
