"""What hypothesis makes up for the archive tests: entries, trees and sequences of entries."""

from __future__ import annotations

from hypothesis import strategies as st

from anyarch.archive.entry import Entry, Kind

# Names as file systems have them: any bytes but NUL and "/", not "." or "..", and not of a whiteout.
raw_names = (
    st.one_of(
        st.text("abz-_. é漢\U0001f600", min_size=1, max_size=12).map(str.encode),
        st.binary(min_size=1, max_size=40),
        st.binary(min_size=90, max_size=130),
    )
    .map(lambda raw: raw.replace(b"\0", b"0").replace(b"/", b"1"))
    .filter(lambda raw: raw not in (b".", b"..") and not raw.startswith(b".wh."))
)
names = raw_names.map(lambda raw: raw.decode("utf-8", "surrogateescape"))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)

ids = st.one_of(st.integers(0, 70000), st.integers(0, (1 << 32) - 1))
seconds = st.one_of(st.integers(0, 1 << 31), st.integers(-(1 << 33), 1 << 33))
xattr_names = st.one_of(
    st.sampled_from(
        [
            "user.a",
            "user.b",
            "security.capability",
            "user.with=sign",
            "user.with%3Dcode",
            "user.with%code",
            "trusted.x",
        ]
    ),
    st.text("=%35De", min_size=1, max_size=8).map("user.".__add__),
)
xattrs = st.dictionaries(xattr_names, st.binary(max_size=200), max_size=3).map(
    lambda found: tuple(sorted(found.items()))
)


@st.composite
def entries(draw: st.DrawFn, max_content: int = 3000) -> tuple[Entry, bytes]:
    """Any entry that an archive can hold, with its content."""
    path = draw(paths)
    kind = draw(st.sampled_from(Kind))
    if kind is Kind.WHITEOUT:
        return Entry(path, kind), b""
    content = draw(st.binary(max_size=max_content)) if kind is Kind.FILE else b""
    link = draw(paths) if kind in (Kind.SYMLINK, Kind.HARDLINK) else ""
    device = kind in (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE)
    entry = Entry(
        path,
        kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(ids),
        gid=draw(ids),
        mtime_ns=draw(seconds) * 1_000_000_000,
        size=len(content),
        linkname=link,
        major=draw(st.integers(0, 4095)) if device else 0,
        minor=draw(st.integers(0, (1 << 20) - 1)) if device else 0,
        xattrs=draw(xattrs),
    )
    return entry, content


# Sequences in which much collides: few names, links to them, removals of them.
_few = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
_targets = st.one_of(
    _few, _few.map("/".__add__), _few.map("../".__add__), st.sampled_from([".", "..", "/", "a/..", "nowhere"])
)
_colliding = st.one_of(
    st.builds(
        lambda path, size: Entry(path, Kind.FILE, 0o640, mtime_ns=5, size=size), _few, st.integers(0, 9)
    ),
    st.builds(
        lambda path, opaque: Entry(path, Kind.DIRECTORY, 0o750, mtime_ns=6, opaque=opaque),
        _few,
        st.booleans(),
    ),
    st.builds(lambda path, target: Entry(path, Kind.SYMLINK, 0o777, linkname=target), _few, _targets),
    st.builds(lambda path, target: Entry(path, Kind.HARDLINK, linkname=target), _few, _few),
    st.builds(lambda path: Entry(path, Kind.WHITEOUT), _few),
    st.builds(lambda path: Entry(path, Kind.WHITEOUT, opaque=True), st.one_of(_few, st.just(""))),
    st.builds(lambda path: Entry(path, Kind.FIFO, 0o600), _few),
)
sequences = st.lists(_colliding, max_size=12)
