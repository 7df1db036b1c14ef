"""The `.git` of a checkout that keeps it: one commit without history, the same bytes whenever it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .giturl import is_commit, redacted

if TYPE_CHECKING:
    from pathlib import Path

    from .gitcli import Git

__all__ = ["make_git_dir"]


def make_git_dir(bare: Git, git_dir: Path, name: str, commit: str, *, remote: str, ref: str) -> None:
    """Make a git directory at `git_dir` whose HEAD is `commit`, of objects in `bare`.

    `name` is the commit or the annotated tag that leads to it, and `ref` what it is called. There is no
    history, no hook, no log; the index claims nothing about the files, so git looks at them when it is
    first asked.
    """
    for part in ("objects/pack", "objects/info", "refs/heads", "refs/tags"):
        (git_dir / part).mkdir(parents=True)
    is_sha256 = len(commit) == 64
    (git_dir / "config").write_text(
        "[core]\n"
        f"\trepositoryformatversion = {int(is_sha256)}\n"
        "\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
        + ("[extensions]\n\tobjectformat = sha256\n" if is_sha256 else "")
    )
    (git_dir / "HEAD").write_text(f"{commit}\n")
    if b"\nparent " in bare.run("cat-file", "commit", commit).split(b"\n\n", 1)[0]:
        (git_dir / "shallow").write_text(f"{commit}\n")
    objects = bare.run("rev-list", "--objects", "--no-walk", name)
    bare.run(
        # What the bare repository has packed how, and what else is in it, must not show.
        *("pack-objects", "--quiet", "--no-reuse-delta", "--no-reuse-object", "--delta-base-offset"),
        str(git_dir / "objects/pack/pack"),
        stdin=objects,
    )
    own = bare.at(git_dir)
    config = ("config", "--file", str(git_dir / "config"))
    own.run(*config, "remote.origin.url", redacted(remote))
    own.run(*config, "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
    if not is_commit(ref):
        own.run("update-ref", ref, name)
    own.run("read-tree", commit, index=git_dir / "index")
