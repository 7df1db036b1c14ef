"""A layer of a step holds what the step changed, and no more, wherever it is put."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyarch.archive.entry import Entry, Kind
from anyarch.archive.tree import scan_tree
from anyarch.snapshot.dirops import LocalDirOps, NamespacedDirOps, serve
from anyarch.snapshot.layers import open_layers
from anyarch.snapshot.upper import Amendment
from anyarch.snapshot.view import View
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anyarch.snapshot.layers import Layer, LayerStore

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts an overlay, whose attributes belong to root"),
]


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerStore]:
    with Store.open(tmp_path_factory.mktemp("layers") / "store") as store:
        yield open_layers(store)
        assert store.verify() == []


_BASE = [
    Entry("d", Kind.DIRECTORY, 0o755, mtime_ns=7),
    Entry("d/e", Kind.DIRECTORY, 0o750, mtime_ns=7),
    Entry("d/e/deep", Kind.FILE, 0o644, mtime_ns=10**9, size=4),
    Entry("d/f", Kind.FILE, 0o644, mtime_ns=10**9, size=3),
    Entry("d/g", Kind.FILE, 0o644, mtime_ns=10**9, size=3),
    Entry("f", Kind.FILE, 0o600, mtime_ns=2 * 10**9 + 5, size=3),
    Entry("h1", Kind.FILE, 0o644, mtime_ns=10**9, size=3),
    Entry("h2", Kind.HARDLINK, 0o644, linkname="h1"),
    Entry("link", Kind.SYMLINK, 0o777, mtime_ns=10**9, linkname="d"),
]


def _base(layers: LayerStore) -> Layer:
    with layers.new_tar() as tar:
        for entry in _BASE:
            tar.add(entry, b"base"[: entry.size] if entry.kind is Kind.FILE else None)
        return tar.commit()


def _step(layers: LayerStore, base: Layer, script: str, work: Path) -> Layer | None:
    """What `script` leaves, run in the mounted tree of `base`."""
    upper = work / "upper"
    for name in ("upper", "work", "root"):
        (work / name).mkdir(parents=True)
    upper.chmod(0o755)
    since = time.time_ns() - 20_000_000
    options = f"lowerdir={layers.directory(base)},upperdir={upper},workdir={work}/work"
    subprocess.run(
        [
            *("unshare", "-m", "sh", "-c"),
            'mount -t overlay x -o "$1" "$2" && cd "$2" && sh -c "$3"',
            *("-", options, str(work / "root"), script),
        ],
        check=True,
        capture_output=True,
    )
    return layers.adopt_upper(upper, overlay="trusted", below=View(layers, [base]), since_ns=since)


def _paths(layers: LayerStore, layer: Layer | None) -> dict[str, Kind]:
    return {entry.path: entry.kind for entry in layers.index(layer)} if layer is not None else {}


def _names(directory: Path) -> set[str]:
    return {entry.path for entry in scan_tree(directory, overlay="trusted")}


D, F, H, W = Kind.DIRECTORY, Kind.FILE, Kind.HARDLINK, Kind.WHITEOUT


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("mv f x && mv x f", {}),
        ("mv d/f x && mv x d/f", {}),
        ("touch -r f stamp && : >>f && touch -r stamp f && rm stamp", {}),
        ("chmod 700 d && chmod 755 d", {}),
        ("touch d/new && rm d/new", {}),
        ("chmod 700 d", {"d": D}),
        ("touch -r f stamp && printf abc >f && touch -r stamp f && rm stamp", {"f": F}),
        ("rm d/f", {"d": D, "d/f": W}),
        ("rm -rf d/e && mkdir -m 750 d/e", {"d": D, "d/e": D, "d/e/deep": W}),
        ("rm -rf d/e && touch d/e", {"d": D, "d/e": F}),
        ("cp -a d x && rm -rf d && mv x d", {}),
        ("cp -a d x && rm -rf d && mv x d && rm d/e/deep", {"d": D, "d/e": D, "d/e/deep": W}),
        ("rm -rf d && mkdir d && touch d/e", {"d": D, "d/e": F, "d/f": W, "d/g": W}),
        ("rm link && mkdir link && touch link/x", {"link": D, "link/x": F}),
        ("chmod 600 h1 && chmod 644 h1", {}),
        ("mkdir -p a/b", {"a": D, "a/b": D}),
        ("ln f f2", {"f": F, "f2": H}),
        ("touch -d @5 d/e", {"d": D, "d/e": D}),
        ("touch -d @4000000000 d", {"d": D}),
        ("touch -d @5 d && touch d", {}),
        ("touch d/new && rm d/new && touch -d @0.000000007 d", {}),
    ],
)
def test_a_layer_holds_what_the_step_changed(
    layers: LayerStore, tmp_path: Path, script: str, expected: dict[str, Kind]
) -> None:
    layer = _step(layers, _base(layers), script, tmp_path)
    assert _paths(layers, layer) == expected
    if layer is not None:
        scanned = scan_tree(layers.directory(layer), overlay="trusted")
        assert {entry.path: entry.kind for entry in scanned} == expected
        assert not any(entry.opaque for entry in scanned)


def test_a_directory_made_again_hides_only_what_was_there(layers: LayerStore, tmp_path: Path) -> None:
    layer = _step(layers, _base(layers), "rm -rf d && mkdir d && touch d/new", tmp_path)
    assert layer is not None
    with layers.new_tar() as tar:
        tar.add(Entry("d", Kind.DIRECTORY, 0o755))
        tar.add(Entry("d/f", Kind.FILE, 0o644), b"")
        tar.add(Entry("d/other", Kind.FILE, 0o644), b"")
        other = tar.commit()
    assert View(layers, [other, layer]).listdir("d") == ["new", "other"]
    assert _mounted(layers, [other, layer]).splitlines() == ["./d", "./d/new", "./d/other"]


def test_times_of_directories_outlive_what_is_taken_out_of_them(layers: LayerStore, tmp_path: Path) -> None:
    script = "mv d/f x && mv x d/f && touch d/new && rm -rf d/e && mkdir -m 750 d/e && touch -d @5 d/e d"
    layer = _step(layers, _base(layers), script, tmp_path)
    assert layer is not None
    directory = layers.directory(layer)
    for path in ("d", "d/e"):
        entry = layers.index(layer).get(path)
        assert entry is not None
        assert (directory / path).stat().st_mtime_ns == entry.mtime_ns == 5 * 10**9


_NAMES = st.sampled_from(["d", "d/e", "d/e/deep", "d/f", "f", "h1", "h2", "link", "n", "d/n", "d/e/n"])
_COMMAND = st.one_of(
    st.tuples(st.sampled_from(["touch", "mkdir", "rm -rf", "chmod 700", "touch -d @9"]), _NAMES).map(
        " ".join
    ),
    st.tuples(st.sampled_from(["mv -T", "ln -f", "cp -aT", "ln -sf"]), _NAMES, _NAMES).map(" ".join),
    st.tuples(st.sampled_from(["printf more >>", "printf xyz >"]), _NAMES).map(" ".join),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(_COMMAND, min_size=1, max_size=8))
def test_base_and_layer_give_the_tree_that_the_step_left(
    layers: LayerStore, tmp_path_factory: pytest.TempPathFactory, script: list[str]
) -> None:
    base = _base(layers)
    work = tmp_path_factory.mktemp("step")
    lines = "\n".join(script) + f"\n{_LIST} >{work}/left\ntrue"
    layer = _step(layers, base, lines, work)
    left = (work / "left").read_text()
    chain = [base, layer] if layer is not None else [base]
    assert _mounted(layers, chain, _LIST) == left
    view = View(layers, chain)
    seen = {node.entry.path for node in view.walk("")}
    assert seen == {line.split(" ")[0].removeprefix("./") for line in left.splitlines()} | {""}
    if layer is not None:
        assert _names(layers.directory(layer)) == set(_paths(layers, layer)) - {""}
        for path, kind in _paths(layers, layer).items():
            if kind is Kind.WHITEOUT:
                assert View(layers, [base]).lookup(path) is not None


_LIST = (
    "find . -mindepth 1 | LC_ALL=C sort | while read -r p; do "
    'printf "%s " "$p"; stat -c "%f %u %g %N" "$p"; '
    '[ -d "$p" ] || stat -c "%s %Y" "$p" >/dev/null; [ ! -f "$p" ] || cksum <"$p" >/dev/null; done'
)


def _mounted(
    layers: LayerStore, chain: Sequence[Layer], script: str = "find . -mindepth 1 | LC_ALL=C sort"
) -> str:
    lower = ":".join(str(path) for path in reversed(layers.directories(chain)))
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c"),
            'd=$(mktemp -d) && mount -t tmpfs x "$d" && mkdir "$d/none" "$d/root" && '
            'mount -t overlay x -o "lowerdir=$d/none:$1" "$d/root" && cd "$d/root" && sh -c "$2"; '
            'cd /; umount -R "$d"; rmdir "$d"',
            *("-", lower, script),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_a_child_amends_as_this_process_does(tmp_path: Path) -> None:
    import io

    def run(argv: Sequence[str], stdin: bytes, on_output: Callable[[bytes], Any]) -> tuple[int, bytes]:
        output = io.BytesIO()
        serve(io.BytesIO(stdin), output)
        on_output(output.getvalue())
        return 0, b""

    strange = os.fsdecode(b"caf\xe9")
    trees = []
    for name, ops in (("one", LocalDirOps(overlay="user")), ("two", NamespacedDirOps(run))):
        upper = tmp_path / name
        (upper / strange).mkdir(parents=True)
        (upper / strange / "gone").write_bytes(b"x")
        (upper / "empty").mkdir()
        os.setxattr(upper / strange, "user.overlay.opaque", b"y")
        os.utime(upper / strange, ns=(5, 5))
        amendment = Amendment((f"{strange}/gone", "empty"), (f"{strange}/hidden",), (strange,))
        ops.amend(str(upper), amendment, overlay="user")
        assert stat.S_ISCHR((upper / strange / "hidden").lstat().st_mode)
        trees.append([(e.path, e.kind, e.opaque) for e in scan_tree(upper, overlay="user")])
        assert (upper / strange).stat().st_mtime_ns == 5
    assert (
        trees[0]
        == trees[1]
        == [(strange, Kind.DIRECTORY, False), (f"{strange}/hidden", Kind.WHITEOUT, False)]
    )
