"""Streaming reader of tar: ustar, PAX (POSIX.1-2001), old GNU forms (long names, base-256 numbers, sparse),
V7.

Input is hostile: every number and length is checked, metadata is limited to MAX_PAX_SIZE an entry, and
memory is flat. Paths come out relative and clean; a path with a `..` component or a NUL is refused, an
absolute one made relative, as all container tools do. What entries mean together (duplicates, links) is for
`fold` or `apply`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.archive.entry import Entry, Kind
from anyarch.archive.tar_input import ContentReader, TarInput, truncated
from anyarch.errors import MalformedArchive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.archive.tar_input import Source

__all__ = ["MAX_PATH", "MAX_PAX_SIZE", "ContentReader", "parse_number", "read_tar"]

MAX_PAX_SIZE = 1 << 20
"""Limit of the metadata of one entry: its PAX records or GNU long name (Go's archive/tar has the same)."""
MAX_PATH = 4095
"""Bytes of a path or link target: what Linux takes."""

_BLOCK = 512
_ZERO = bytes(_BLOCK)
_MAX_SIZE = (1 << 63) - 1

_KINDS = {
    b"0": Kind.FILE,
    b"\x00": Kind.FILE,
    b"7": Kind.FILE,  # contiguous
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
    b"D": Kind.DIRECTORY,  # GNU dump: names of the directory as content, which is skipped
}
_FILE, _DIRECTORY = Kind.FILE, Kind.DIRECTORY
_LINKS = (Kind.SYMLINK, Kind.HARDLINK)
_DEVICES = (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE)


def read_tar(source: Source, *, whiteouts: bool = True) -> Iterator[tuple[Entry, ContentReader]]:
    """The entries of the uncompressed tar `source` with their contents, in the order of the archive.

    `.wh.NAME` gives kind WHITEOUT of NAME; `.wh..wh..opq` in directory D gives `Entry(D, WHITEOUT,
    opaque=True)`, which `fold` merges into the directory; other `.wh..wh.` names (bookkeeping of AUFS) are
    left out. With `whiteouts=False` such names are ordinary. `Entry.offset` is set for each FILE that is
    stored in one piece. Owner names, global headers' comments and overlay's own extended attributes are
    dropped.

    Contents that are not read are skipped, by seeking where `source` can. The iterator stops at the end
    marker; what follows it is neither read nor checked. Raises `MalformedArchive`.
    """
    stream = TarInput(source)
    defaults: dict[bytes, bytes] = {}
    first = True
    while True:
        header = stream.block()
        if header is None or header == _ZERO:
            return
        _check_sum(header, first)
        first = False
        flag = header[156:157]
        records = defaults
        if flag in b"xXgLKV":
            records = dict(defaults)
            while flag in b"xXgLKV":
                size = _size(header)
                if flag == b"V":
                    stream.skip(size + -size % _BLOCK)
                else:
                    _read_metadata(stream, flag, size, records, defaults)
                header = stream.block()
                if header is None or header == _ZERO:
                    if flag in b"gV":
                        return
                    raise truncated()
                _check_sum(header, first)
                flag = header[156:157]
        entry, content, stored = _entry(stream, header, records)
        if whiteouts and ".wh." in entry.path:
            marked = _whiteout(entry)
            if marked is None:
                stream.skip(stored + -stored % _BLOCK)
                continue
            entry = marked
        end = stream.position + stored + -stored % _BLOCK
        yield entry, content
        content.finish()
        stream.skip(end - stream.position)


def _entry(stream: TarInput, header: bytes, records: dict[bytes, bytes]) -> tuple[Entry, ContentReader, int]:
    """One entry from its header block and PAX records; its content; the bytes stored for that."""
    flag = header[156:157]
    magic = header[257:263]
    end = header.find(b"\x00", 0, 100)
    name = header[: 100 if end < 0 else end]
    if magic == b"ustar\x00" and header[345]:
        # star puts times into the end of the prefix, and says so at the end of the block.
        name = _text(header[345:476] if header[508:] == b"tar\x00" else header[345:500]) + b"/" + name
    size = _size(header)
    uid = parse_number(header[108:116])
    gid = parse_number(header[116:124])
    mtime_ns = parse_number(header[136:148]) * 1_000_000_000
    link = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    if records:
        # GNU tar gives sparse files a made-up `path`, for readers that do not know the form.
        name = records.get(b"GNU.sparse.name") or records.get(b"path", name)
        link = records.get(b"linkpath", b"")
        if b"size" in records:
            size = _decimal(records, b"size")
        if b"uid" in records:
            uid = _decimal(records, b"uid")
        if b"gid" in records:
            gid = _decimal(records, b"gid")
        if b"mtime" in records:
            mtime_ns = _time(records[b"mtime"])
        xattrs = _xattrs(records)
    path = _path(name)

    kind = _KINDS.get(flag)
    if kind is None:
        if flag != b"S":
            raise MalformedArchive(f"{path!r}: entries of type {flag!r} are not supported")
        kind = _FILE
    if kind is _FILE and name.endswith(b"/"):
        kind = _DIRECTORY
    if kind is not _FILE:
        # Only files have content; writers differ on whether the size of a link says something, so as in Go it
        # does not. A directory's is skipped.
        stored = size if kind is _DIRECTORY else 0
        major = minor = 0
        linkname = ""
        if kind in _LINKS:
            link = link or _text(header[157:257])
            if not link or len(link) > MAX_PATH or b"\x00" in link:
                raise MalformedArchive(f"{path!r}: the link target is missing, too long or has a NUL in it")
            linkname = link.decode("utf-8", "surrogateescape") if kind is Kind.SYMLINK else _path(link)
            if not linkname:
                raise MalformedArchive(f"{path!r}: a hard link to the root")
        elif kind in _DEVICES:
            major, minor = parse_number(header[329:337]), parse_number(header[337:345])
            if not (0 <= major < 1 << 32 and 0 <= minor < 1 << 32):
                raise MalformedArchive(f"{path!r}: the device number is out of range")
        size = 0
    else:
        stored = size
        major = minor = 0
        linkname = ""
    if not path and kind is not _DIRECTORY:
        raise MalformedArchive("an entry without a name")
    if not (0 <= uid < 1 << 32 and 0 <= gid < 1 << 32):
        raise MalformedArchive(f"{path!r}: the owner {uid}:{gid} is out of range")

    content = ContentReader(stream, size)
    offset = -1
    if kind is _FILE:
        offset = stream.position
        if flag == b"S" or b"GNU.sparse.size" in records or b"GNU.sparse.realsize" in records:
            from anyarch.archive.sparse import SparseReader, read_map

            segments, size, used = read_map(stream, header, records, stored)
            stored -= used
            content = SparseReader(stream, segments, size, stored)
            offset = -1
    mode = parse_number(header[100:108]) & 0o7777
    # Nanoseconds beyond 64 bits (the years 1677 and 2262) fit no file system and not our index.
    if not -_MAX_SIZE <= mtime_ns <= _MAX_SIZE:
        mtime_ns = max(-_MAX_SIZE, min(mtime_ns, _MAX_SIZE))
    entry = Entry(
        path, kind, mode, uid, gid, mtime_ns, size, linkname, major, minor, xattrs, False, b"", offset
    )  # fmt: skip
    return entry, content, stored


def _whiteout(entry: Entry) -> Entry | None:
    """`entry` as what its `.wh.` name means; None when it is to be left out."""
    if ".wh..wh." in entry.path:
        parent, _, base = entry.path.rpartition("/")
        if base == ".wh..wh..opq":
            return Entry(parent, Kind.WHITEOUT, opaque=True)
        if any(part.startswith(".wh..wh.") for part in entry.path.split("/")):
            return None
    parent, slash, base = entry.path.rpartition("/")
    if not base.startswith(".wh."):
        return entry
    base = base[4:]
    if base in ("", ".", ".."):
        raise MalformedArchive(f"{entry.path!r}: a removal without a name")
    return Entry(parent + slash + base, Kind.WHITEOUT)


def _read_metadata(
    stream: TarInput, flag: bytes, size: int, records: dict[bytes, bytes], defaults: dict[bytes, bytes]
) -> None:
    """The content of a PAX header or GNU long name, put into `records` (and `defaults`, of a global
    header).
    """
    if size > MAX_PAX_SIZE:
        raise MalformedArchive(f"{size} bytes of metadata for one entry; the limit is {MAX_PAX_SIZE}")
    data = stream.exactly(size + -size % _BLOCK)[:size]
    if flag == b"L":
        records[b"path"] = _text(data)
    elif flag == b"K":
        records[b"linkpath"] = _text(data)
    else:
        found = _parse_pax(data)
        for target in (records, defaults) if flag == b"g" else (records,):
            for key, value in found.items():
                if value or key.startswith(_XATTR):
                    target[key] = value
                else:  # an empty value takes a record back; an attribute may well be empty
                    target.pop(key, None)
            if sum(map(len, target.values())) > 2 * MAX_PAX_SIZE:
                raise MalformedArchive("too much metadata in global headers")


_KEPT = frozenset({b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"})
_XATTR = b"SCHILY.xattr."


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header that mean something to us."""
    records: dict[bytes, bytes] = {}
    segments: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            if not data[at:].strip(b"\x00"):
                break  # padding inside the size, as some writers leave it
            raise MalformedArchive("a damaged PAX record")
        end = at + int(digits)
        equals = data.find(b"=", space, end)
        if end > len(data) or equals <= space + 1 or data[end - 1] != 0x0A:
            raise MalformedArchive("a damaged PAX record")
        key = data[space + 1 : equals]
        value = data[equals + 1 : end - 1]
        at = end
        if key in _KEPT or key.startswith(_XATTR):
            records[key] = value
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # form 0.0: a record a number
            segments.append(value)
        elif key.startswith(b"GNU.sparse."):
            records[key] = value
    if segments:
        records[b"GNU.sparse.map"] = b",".join(segments)
    return records


def _xattrs(records: dict[bytes, bytes]) -> tuple[tuple[str, bytes], ...]:
    found = []
    for key, value in records.items():
        if key.startswith(_XATTR):
            name = key[len(_XATTR) :]
            if b"%" in name:
                name = name.replace(b"%3D", b"=").replace(b"%25", b"%")
            if not name or b"\x00" in name:
                raise MalformedArchive("an extended attribute without a proper name")
            if not name.startswith((b"trusted.overlay.", b"user.overlay.")):
                found.append((name.decode("utf-8", "surrogateescape"), value))
    found.sort()
    return tuple(found)


def _path(raw: bytes) -> str:
    """The clean, relative form of a name in the archive."""
    if len(raw) > MAX_PATH + 2 or b"\x00" in raw:  # 2: "./" is not counted
        raise MalformedArchive(f"a path that is too long or has a NUL in it: {raw[:100]!r}")
    path = raw.decode("utf-8", "surrogateescape")
    if path.startswith("./"):
        path = path[2:]
    if path.endswith("/"):
        path = path[:-1]
    if not path or path[0] in "/." or "//" in path or "/." in path or path[-1] == "/":
        parts = [part for part in path.split("/") if part and part != "."]
        if ".." in parts:
            raise MalformedArchive(f"the path {path!r} leads out of the archive's root")
        path = "/".join(parts)
    return path


def _text(field: bytes) -> bytes:
    """`field` up to its first NUL."""
    return field.partition(b"\x00")[0]


def _check_sum(header: bytes, first: bool) -> None:
    stored = parse_number(header[148:156])
    rest = sum(header) - sum(header[148:156]) + 8 * 0x20
    if stored != rest:
        # Some old writers summed signed bytes.
        signed = rest - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
        if stored != signed:
            raise MalformedArchive(
                "this is not a tar archive" if first else "a damaged tar header (wrong checksum)"
            )


def parse_number(field: bytes) -> int:
    """A number field: octal digits padded with NULs or spaces, or base-256 (GNU, two's complement)."""
    digits = field.strip(b"\x00 ")
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            raise MalformedArchive("a damaged number in a tar header") from None
    if not digits:
        return 0
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    digits = _text(digits).rstrip(b" ")  # something may stand behind the NUL
    if digits.isdigit() and not digits.strip(b"01234567"):
        return int(digits, 8)
    raise MalformedArchive("a damaged number in a tar header")


def _size(header: bytes) -> int:
    size = parse_number(header[124:136])
    if not 0 <= size <= _MAX_SIZE:
        raise MalformedArchive("a size in a tar header is out of range")
    return size


def _decimal(records: dict[bytes, bytes], key: bytes) -> int:
    value = records[key]
    if not value.isdigit() or len(value) > 19:
        raise MalformedArchive(f"a damaged PAX record: {key.decode()}={value[:30]!r}")
    return min(int(value), _MAX_SIZE)


def _time(value: bytes) -> int:
    """Nanoseconds of a PAX time: seconds with an optional sign and fraction; finer digits are dropped."""
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    digits = whole[1:] if negative else whole
    if not digits.isdigit() or len(digits) > 19 or (fraction and not fraction.isdigit()):
        raise MalformedArchive(f"a damaged PAX record: mtime={value[:30]!r}")
    nanoseconds = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if negative else nanoseconds
