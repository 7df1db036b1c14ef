"""Text conversions where the Dockerfile language means those of Go: blanks, quoting in messages, numbers,
durations.

Only what the frontend needs; each function says how it differs from Python's nearest relative.
"""

from __future__ import annotations

from anyarch.errors import DockerfileError
from anyarch.spec.text import BLANKS

__all__ = [
    "BLANKS",
    "WORD_BLANKS",
    "closest",
    "did_you_mean",
    "json_text",
    "parse_bool",
    "parse_duration",
    "parse_int",
    "parse_uint",
    "quote",
    "ram_bytes",
    "split_blanks",
]

WORD_BLANKS = "\t\v\f\r "
"""What separates words of lists (FROM, COPY, EXPOSE …): no line feed, no wide blanks."""

_ESCAPES = {
    7: "\\a",
    8: "\\b",
    9: "\\t",
    10: "\\n",
    11: "\\v",
    12: "\\f",
    13: "\\r",
    34: '\\"',
    92: "\\\\",
    127: "\\x7f",
}
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_MAX_INT64 = (1 << 63) - 1
_DIGITS = frozenset("0123456789")


def quote(text: str) -> str:
    """The text as a double-quoted Go literal (`%q`); undecodable bytes as `\\xNN`."""
    parts = ['"']
    for char in text:
        code = ord(char)
        if code in _ESCAPES:
            parts.append(_ESCAPES[code])
        elif code < 0x20:
            parts.append(f"\\x{code:02x}")
        elif 0xDC80 <= code <= 0xDCFF:
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif code < 0x7F or char.isprintable():
            parts.append(char)
        elif code > 0xFFFF:
            parts.append(f"\\U{code:08x}")
        else:
            parts.append(f"\\u{code:04x}")
    parts.append('"')
    return "".join(parts)


def split_blanks(text: str, limit: int = -1) -> list[str]:
    """Split at runs of `WORD_BLANKS`, at most `limit` times; a run at either end gives an empty string."""
    out: list[str] = []
    start = pos = 0
    size = len(text)
    while pos < size and limit != 0:
        if text[pos] in WORD_BLANKS:
            out.append(text[start:pos])
            while pos < size and text[pos] in WORD_BLANKS:
                pos += 1
            start = pos
            limit -= 1
        else:
            pos += 1
    out.append(text[start:])
    return out


def parse_bool(text: str) -> bool | None:
    """One of the thirteen spellings of a truth value, None for anything else."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    return None


def parse_uint(text: str, base: int, bits: int) -> int | None:
    """An unsigned number in ASCII digits only (no sign, blank or underscore), None if it is not one or too
    large.
    """
    digits = "0123456789"[:base]
    if not text or text.strip(digits) or len(text) > 64:
        return None
    value = int(text, base)
    return value if value < 1 << bits else None


def parse_int(text: str, bits: int) -> int:
    """A signed decimal number. Raises `DockerfileError` worded as Go does it."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits or not _DIGITS.issuperset(digits):
        raise DockerfileError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")
    limit = 1 << (bits - 1)
    value = int(text) if len(digits) <= 64 else limit + 1
    if not -limit <= value < limit:
        raise DockerfileError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return value


def parse_duration(text: str) -> int:
    """Nanoseconds of `1h30m`, `1.5s`, `-2ms` … Raises `DockerfileError`.

    A sum of decimal numbers, each with a unit (ns, us, ms, s, m, h); a lone `0` needs none; at most 63 bits.
    """
    invalid = DockerfileError(f"time: invalid duration {quote(text)}")
    rest = text
    negative = rest.startswith("-")
    if rest[:1] in ("+", "-"):
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    pos = 0
    while pos < len(rest):
        start = pos
        while pos < len(rest) and rest[pos] in _DIGITS:
            pos += 1
        whole = rest[start:pos]
        fraction = ""
        if pos < len(rest) and rest[pos] == ".":
            start = pos = pos + 1
            while pos < len(rest) and rest[pos] in _DIGITS:
                pos += 1
            fraction = rest[start:pos]
        if not whole and not fraction:
            raise invalid
        start = pos
        while pos < len(rest) and rest[pos] != "." and rest[pos] not in _DIGITS:
            pos += 1
        name = rest[start:pos]
        if not name:
            raise DockerfileError(f"time: missing unit in duration {quote(text)}")
        unit = _UNITS_NS.get(name)
        if unit is None:
            raise DockerfileError(f"time: unknown unit {quote(name)} in duration {quote(text)}")
        if len(whole.lstrip("0")) > 19:
            raise invalid
        # Go keeps at most 18 digits of the fraction and drops what is below a nanosecond.
        fraction = fraction[:18]
        total += int(whole or "0") * unit
        if fraction:
            total += int(fraction) * unit // 10 ** len(fraction)
        if total > _MAX_INT64 + negative:
            raise invalid
    return -total if negative else total


def ram_bytes(text: str) -> int | None:
    """Bytes of `64m`, `1.5 GiB`, `100kb`, `7` (units of 1024, either case), None for anything else."""
    end = max(text.rfind(char) for char in "0123456789. ")
    if end < 0:
        return None
    number = text[:end] if text[end] == " " else text[: end + 1]
    suffix = text[end + 1 :].lower()
    # float() would also take blanks, underscores and other scripts' digits.
    if not number or number.strip("0123456789.eE+-"):
        return None
    try:
        size = float(number)
    except ValueError:
        return None
    if size < 0 or size == float("inf"):
        return None
    power = -1
    if suffix not in ("", "b"):
        power = "kmgtp".find(suffix[0])
        if power < 0 or suffix[1:] not in ("", "b", "ib"):
            return None
    size *= 1024 ** (power + 1)
    return int(size) if size < 1 << 63 else None


def _distance(left: str, right: str, limit: int) -> int:
    """Levenshtein distance, or some number >= `limit` when it is at least that."""
    if abs(len(left) - len(right)) >= limit:
        return limit
    previous = list(range(len(right) + 1))
    for row, char in enumerate(left, 1):
        current = [row]
        for column, other in enumerate(right, 1):
            current.append(
                min(previous[column] + 1, current[column - 1] + 1, previous[column - 1] + (char != other))
            )
        previous = current
    return previous[-1]


def closest(value: str, options: list[str] | tuple[str, ...], *, case_sensitive: bool = True) -> str:
    """The option at most two edits away from `value` (the nearest, then the first), else an empty string.

    Empty too when one option equals the value: then the spelling is not what is wrong. Without
    `case_sensitive` the answer takes the case of `value`.
    """
    wanted = value if case_sensitive else value.lower()
    best = ""
    limit = 3
    for option in options:
        candidate = option if case_sensitive else option.lower()
        if candidate == wanted:
            return ""
        distance = _distance(wanted, candidate, limit)
        if distance < limit:
            limit, best = distance, candidate
    if best and not case_sensitive and value == value.upper() and value != value.lower():
        return best.upper()
    return best


def did_you_mean(
    message: str, value: str, options: list[str] | tuple[str, ...], *, case_sensitive: bool = True
) -> str:
    """The message, with ` (did you mean X?)` behind it if an option is close to `value`."""
    match = closest(value, options, case_sensitive=case_sensitive)
    return f"{message} (did you mean {match}?)" if match else message


def json_text(document: object) -> bytes:
    """JSON as Go's encoder writes it with two blanks of indentation: characters that matter in HTML are
    escaped, others are not."""
    import json

    text = json.dumps(document, indent=2, ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "replace")
