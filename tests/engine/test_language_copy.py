"""COPY and ADD: each flag, and what happens to paths, owners and modes. Traps are numbered as in the notes on
the language."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import AnyarchError, BuildError, DockerfileError, PathNotFound

if TYPE_CHECKING:
    from anyarch.testing.builder import Builder

FILES = {"a.txt": "A", "b.txt": "B", "dir/c.txt": "C", "dir/sub/d.md": "D", "dir/sub/e.txt": "E"}


# destinations -------------------------------------------------------------------------------------


def test_several_sources_to_a_plain_name_overwrite_one_another(scratch_build: Builder) -> None:
    """Trap 1."""
    image = scratch_build("FROM scratch\nCOPY a.txt b.txt /x\n", files=FILES)
    assert image.listing() == ["x"]
    assert image.read_text("/x") == "B"


def test_a_file_goes_into_a_directory_and_otherwise_gets_the_name(scratch_build: Builder) -> None:
    image = scratch_build(
        """
        FROM scratch
        COPY a.txt /new/
        COPY a.txt /name
        COPY b.txt /new
        WORKDIR /w
        COPY a.txt ./
        COPY b.txt .
        """,
        files=FILES,
    )
    assert image.listing() == ["name", "new", "new/a.txt", "new/b.txt", "w", "w/a.txt", "w/b.txt"]


def test_a_directorys_contents_are_copied_not_the_directory(scratch_build: Builder) -> None:
    image = scratch_build("FROM scratch\nCOPY dir /x\nCOPY dir/ dir/sub /y/\n", files=FILES)
    assert image.listing("/x") == ["c.txt", "sub", "sub/d.md", "sub/e.txt"]
    assert image.listing("/y") == ["c.txt", "d.md", "e.txt", "sub", "sub/d.md", "sub/e.txt"]


def test_existing_directories_keep_their_mode_and_new_ones_are_0755(scratch_build: Builder) -> None:
    scratch_build.write(FILES)
    os.chmod(scratch_build.context / "dir", 0o700)
    os.chmod(scratch_build.context / "dir/sub", 0o711)
    image = scratch_build("FROM scratch\nCOPY dir /x\nCOPY --chmod=750 a.txt /kept/\nCOPY dir /kept\n")
    assert image.member("/x").mode == 0o755
    assert image.member("/x/sub").mode == 0o711
    assert image.path("/kept").stat().st_mode & 0o777 == 0o750


def test_a_directory_is_not_copied_onto_a_file_nor_a_file_onto_a_directory(scratch_build: Builder) -> None:
    with pytest.raises(AnyarchError, match="cannot copy to non-directory"):
        scratch_build("FROM scratch\nCOPY a.txt /x\nCOPY dir /x\n", files=FILES)
    with pytest.raises(AnyarchError, match="cannot replace to directory"):
        scratch_build("FROM scratch\nCOPY dir /x/a.txt/\nCOPY a.txt /x/\n")


def test_wildcards_may_match_nothing_but_names_must_exist(scratch_build: Builder) -> None:
    """Trap 9."""
    image = scratch_build("FROM scratch\nCOPY a.txt *.nope /x/\n", files=FILES)
    assert image.listing() == ["x", "x/a.txt"]
    with pytest.raises(PathNotFound, match='"/nope": not found') as caught:
        scratch_build("FROM scratch\nCOPY a.txt nope /x/\n")
    assert caught.value.source is not None
    assert caught.value.source.start == 2


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[b-z].txt", ["b.txt"]),
        ("d*", ["c.txt", "sub", "sub/d.md", "sub/e.txt"]),
        ("dir/*/*.md", ["d.md"]),
        ("**/c.txt", ["c.txt"]),
        ("**/e.txt", []),
    ],
)
def test_patterns_are_those_of_the_shell(scratch_build: Builder, pattern: str, found: list[str]) -> None:
    image = scratch_build(f"FROM scratch\nCOPY a.txt /ok\nCOPY {pattern} /x/\n", files=FILES)
    assert [path.removeprefix("x/") for path in image.listing() if path.startswith("x/")] == found


def test_a_link_that_is_named_is_followed_and_others_are_kept(scratch_build: Builder) -> None:
    scratch_build.write(FILES)
    (scratch_build.context / "link").symlink_to("a.txt")
    (scratch_build.context / "dirlink").symlink_to("dir")
    (scratch_build.context / "dir/inner").symlink_to("../a.txt")
    image = scratch_build("FROM scratch\nCOPY link /x/\nCOPY dirlink /y\n")
    assert image.read_text("/x/link") == "A"
    assert not image.path("/x/link").is_symlink()
    assert image.path("/y/inner").readlink().as_posix() == "../a.txt"


def test_paths_cannot_leave_the_context(scratch_build: Builder) -> None:
    image = scratch_build("FROM scratch\nCOPY ../../a.txt /one\nCOPY /b.txt /two\n", files=FILES)
    assert (image.read_text("/one"), image.read_text("/two")) == ("A", "B")


def test_names_with_blanks_need_the_json_form(scratch_build: Builder) -> None:
    image = scratch_build('FROM scratch\nCOPY ["a b", "c d", "/to here/"]\n', files={"a b": "1", "c d": "2"})
    assert image.listing() == ["to here", "to here/a b", "to here/c d"]


# owners and modes ---------------------------------------------------------------------------------


def test_files_of_the_context_belong_to_root_and_those_of_a_stage_to_whom_they_belong(
    scratch_build: Builder,
) -> None:
    scratch_build.write({"a": "1"})
    os.chown(scratch_build.context / "a", 12, 34)
    image = scratch_build(
        "FROM scratch AS s\nCOPY --chown=5:6 a /a\nFROM scratch\nCOPY a /ctx\nCOPY --from=s /a /stage\n"
    )
    assert (image.member("/ctx").uid, image.member("/ctx").gid) == (0, 0)
    assert (image.member("/stage").uid, image.member("/stage").gid) == (5, 6)


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("7", (7, 7)),
        ("7:8", (7, 8)),
        (":8", (0, 8)),
        ("app", (1000, 2000)),
        ("app:team", (1000, 3000)),
        ("7:team", (7, 3000)),
        ("root", (0, 0)),
        ("nobody-knows", (0, 0)),
        ("nobody-knows:nothing", (0, 0)),
        ("app:nothing", (1000, 2000)),
        ("$WHO", (1000, 2000)),
    ],
)
def test_owners_are_those_of_the_stage_and_unknown_names_are_root(
    scratch_build: Builder, owner: str, expected: tuple[int, int]
) -> None:
    """Trap 5."""
    files = {
        "passwd": "root:x:0:0::/:/bin/sh\napp:x:1000:2000::/:/bin/sh\n",
        "group": "team:x:3000:\n",
        "f": "F",
    }
    image = scratch_build(
        f"FROM scratch\nARG WHO=app\nCOPY passwd group /etc/\nCOPY --chown={owner} f /new/f\n", files=files
    )
    for path in ("/new/f", "/new"):
        member = image.member(path)
        assert (member.uid, member.gid) == expected


def test_an_owners_name_on_an_empty_stage_is_an_error(scratch_build: Builder) -> None:
    with pytest.raises(AnyarchError, match="invalid user index"):
        scratch_build("FROM scratch\nCOPY --chown=app a.txt /x\n", files=FILES)


@pytest.mark.parametrize(
    ("mode", "file", "tool", "directory"),
    [
        ("600", 0o600, 0o600, 0o600),
        ("0755", 0o755, 0o755, 0o755),
        ("4711", 0o4711, 0o4711, 0o4711),
        ("u=rwX,go=rX", 0o644, 0o755, 0o755),
        ("+x", 0o755, 0o755, 0o755),
        ("go-rwx", 0o600, 0o700, 0o700),
        ("g=u", 0o664, 0o775, 0o775),
        ("$MODE", 0o640, 0o640, 0o640),
    ],
)
def test_chmod_takes_numbers_and_symbols(
    scratch_build: Builder, mode: str, file: int, tool: int, directory: int
) -> None:
    scratch_build.write({"d/file": "F", "d/sub/tool": "T"})
    os.chmod(scratch_build.context / "d/file", 0o644)
    os.chmod(scratch_build.context / "d/sub/tool", 0o755)
    os.chmod(scratch_build.context / "d/sub", 0o755)
    image = scratch_build(f"FROM scratch\nARG MODE=640\nCOPY --chmod={mode} d /x/\n")
    modes = [image.member(path).mode for path in ("/x/file", "/x/sub/tool", "/x/sub")]
    assert modes == [file, tool, directory]


def test_an_octal_mode_also_hits_the_directories_that_are_made(scratch_build: Builder) -> None:
    """Trap 3."""
    image = scratch_build("FROM scratch\nCOPY --chmod=600 a.txt /new/deep/\n", files=FILES)
    assert [image.member(path).mode for path in ("/new", "/new/deep", "/new/deep/a.txt")] == [0o600] * 3


@pytest.mark.parametrize(
    ("mode", "problem"),
    [("999", "should be octal"), ("10000", "should be octal"), ("zz", "invalid"), ("u+rwx,", "invalid")],
)
def test_a_senseless_mode_is_an_error(scratch_build: Builder, mode: str, problem: str) -> None:
    with pytest.raises(DockerfileError, match=problem):
        scratch_build(f"FROM scratch\nCOPY --chmod={mode} a.txt /x\n", files=FILES)


# --link, --parents, --exclude ---------------------------------------------------------------------


def test_a_linked_copy_is_not_made_again_when_what_is_below_changes(scratch_build: Builder) -> None:
    text = "FROM scratch\nCOPY {} /base\nCOPY --link dir /linked\nCOPY dir /plain\n"
    scratch_build(text.format("a.txt"), files=FILES)
    changed = scratch_build(text.format("b.txt"))
    copies = [name for name in changed.executed if "] COPY --link" in name]
    assert copies == []
    assert any("COPY dir /plain" in name for name in changed.executed)
    assert changed.listing("/linked") == ["c.txt", "sub", "sub/d.md", "sub/e.txt"]


def test_a_linked_copy_replaces_a_link_by_a_directory(scratch_build: Builder) -> None:
    scratch_build.write({"real/x": "X", "f": "F"})
    (scratch_build.context / "tree").mkdir()
    (scratch_build.context / "tree/to").symlink_to("/real")
    image = scratch_build("FROM scratch\nCOPY real /real\nCOPY tree /\nCOPY --link f /to/\n")
    assert not image.path("/to").is_symlink()
    assert image.listing("/to") == ["f"]
    assert image.listing("/real") == ["x"]
    followed = scratch_build("FROM scratch\nCOPY real /real\nCOPY tree /\nCOPY f /to/\n")
    assert followed.listing("/real") == ["f", "x"]


def test_a_linked_copy_with_a_mode_is_an_ordinary_one(scratch_build: Builder) -> None:
    """Trap 4."""
    text = "FROM scratch\nCOPY {} /base\nCOPY --link --chmod=700 b.txt /linked\n"
    scratch_build(text.format("a.txt"), files=FILES)
    changed = scratch_build(text.format("b.txt"))
    assert any("COPY --link --chmod=700" in name for name in changed.executed)


def test_parents_are_kept_from_the_pivot_on(scratch_build: Builder) -> None:
    image = scratch_build(
        """
        FROM scratch
        COPY --parents dir/sub/d.md /whole/
        COPY --parents dir/./sub/d.md /pivot/
        COPY --parents ./**/*.txt /deep/
        COPY --parents nope/*.none /none/
        """,
        files=FILES,
    )
    assert [path for path in image.listing("/whole") if path.endswith(".md")] == ["dir/sub/d.md"]
    assert [path for path in image.listing("/pivot") if path.endswith(".md")] == ["sub/d.md"]
    files = [path for path in image.listing("/deep") if path.endswith(".txt")]
    assert files == ["a.txt", "b.txt", "dir/c.txt", "dir/sub/e.txt"]
    assert image.path("/none").is_dir()
    with pytest.raises(PathNotFound, match="not found"):
        scratch_build("FROM scratch\nCOPY --parents dir/nope /x/\n")


def test_what_is_excluded_is_found_by_pattern_below_each_source(scratch_build: Builder) -> None:
    image = scratch_build(
        """
        FROM scratch
        COPY --exclude=*.txt dir /top
        COPY --exclude=**/*.txt --exclude=sub/d.md dir /deep
        COPY --exclude=sub --exclude=!sub/e.txt dir /back
        ADD --exclude=sub dir /add
        """,
        files=FILES,
    )
    assert image.listing("/top") == ["sub", "sub/d.md", "sub/e.txt"]
    assert [path for path in image.listing("/deep") if "." in path] == []
    assert [path for path in image.listing("/back") if "." in path] == ["c.txt", "sub/e.txt"]
    assert image.listing("/add") == ["c.txt"]


def test_a_source_that_is_a_file_is_never_excluded(scratch_build: Builder) -> None:
    """Trap 2."""
    image = scratch_build("FROM scratch\nCOPY --exclude=*.txt a.txt b*.txt /x/\n", files=FILES)
    assert image.listing("/x") == ["a.txt", "b.txt"]


# --from -------------------------------------------------------------------------------------------


def test_from_takes_a_name_a_number_and_an_image(build: Builder) -> None:
    image = build(
        """
        FROM scratch AS first
        COPY a.txt /f
        FROM scratch
        COPY b.txt /f
        FROM scratch
        COPY --from=FIRST /f /name
        COPY --from=1 /f /number
        COPY --from=busybox /bin/busybox /image
        """,
        files=FILES,
    )
    assert (image.read_text("/name"), image.read_text("/number")) == ("A", "B")
    assert image.path("/image").stat().st_size > 1000


def test_from_takes_the_last_stage_of_a_name_where_a_base_is_the_nearest(scratch_build: Builder) -> None:
    """Trap 17."""
    image = scratch_build(
        """
        FROM scratch AS x
        COPY a.txt /f
        FROM x AS near
        FROM scratch AS x
        COPY b.txt /f
        FROM scratch
        COPY --from=x /f /last
        COPY --from=near /f /near
        """,
        files=FILES,
    )
    assert (image.read_text("/last"), image.read_text("/near")) == ("B", "A")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM scratch AS x\nCOPY --from=$y /a /b\n", "variable expansion is not supported for --from"),
        ("FROM scratch AS x\nCOPY --from=7 /a /b\n", "invalid stage index 7"),
        ("FROM scratch AS x\nCOPY --from=x /a /b\n", "circular dependency"),
        (
            "FROM scratch AS x\nCOPY --from=1 /a /b\nFROM scratch\nCOPY a.txt /\nFROM x\n",
            "needs to be defined",
        ),
        ("FROM scratch\nCOPY https://h/x /y\n", "source can't be a URL for COPY"),
    ],
)
def test_what_cannot_be_copied_from_is_an_error(scratch_build: Builder, text: str, problem: str) -> None:
    with pytest.raises(BuildError, match=problem):
        scratch_build(text, files=FILES, build_args={"y": "x"})


# inline files -------------------------------------------------------------------------------------

INLINE = r"""FROM scratch
ARG WHO=me
COPY <<plain <<"quoted" <<-tabs /in/
hello ${WHO} \n \$WHO "q"
plain
hello ${WHO} \n
quoted
	indented
		$WHO
tabs
COPY --chmod=700 --chown=1:2 <<END /named
x
END
"""


def test_inline_files_expand_variables_and_lose_backslashes(scratch_build: Builder) -> None:
    """Trap 11."""
    image = scratch_build(INLINE)
    assert image.read_text("/in/plain") == 'hello me n $WHO "q"\n'
    assert image.read_text("/in/quoted") == "hello ${WHO} \\n\n"
    assert image.read_text("/in/tabs") == "indented\nme\n"
    named = image.member("/named")
    assert (named.mode, named.uid, named.gid) == (0o700, 1, 2)
    assert image.member("/in/plain").mode == 0o644


def test_inline_files_mix_with_others_and_cannot_be_a_destination(scratch_build: Builder) -> None:
    image = scratch_build("FROM scratch\nCOPY a.txt <<END b.txt /x/\nhi\nEND\n", files=FILES)
    assert image.listing("/x") == ["END", "a.txt", "b.txt"]
    with pytest.raises(DockerfileError):
        scratch_build("FROM scratch\nCOPY a.txt <<END\nhi\nEND\n")
