"""Signal names that STOPSIGNAL takes: those of Linux, whatever machine this runs on."""

from __future__ import annotations

from anyarch.errors import DockerfileError

__all__ = ["parse_signal"]

_BY_NUMBER = """
    HUP INT QUIT ILL TRAP ABRT/IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD/CLD CONT STOP TSTP
    TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO/POLL PWR SYS
"""
_NUMBERS = {name: number for number, names in enumerate(_BY_NUMBER.split(), 1) for name in names.split("/")}
_RTMIN, _RTMAX = 34, 64


def parse_signal(text: str) -> int:
    """Number of the Linux signal `text`: a number but 0, or a name with or without SIG, any case.

    The real-time names are RTMIN, RTMIN+1 … RTMIN+15, RTMAX-14 … RTMAX-1, RTMAX.
    Raises `DockerfileError` (`invalid signal: …`).
    """
    digits = text.removeprefix("+")
    if digits.isascii() and digits.isdigit() and len(digits) <= 10 and int(digits):
        return int(digits)
    name = text.upper().removeprefix("SIG")
    if name in _NUMBERS:
        return _NUMBERS[name]
    number = _real_time(name)
    if number is None:
        raise DockerfileError(f"invalid signal: {text}")
    return number


def _real_time(name: str) -> int | None:
    if name == "RTMIN":
        return _RTMIN
    if name == "RTMAX":
        return _RTMAX
    base, offset = name[:6], name[6:]
    if not offset.isascii() or not offset.isdigit() or offset.startswith("0") or len(offset) > 2:
        return None
    if base == "RTMIN+" and int(offset) <= 15:
        return _RTMIN + int(offset)
    if base == "RTMAX-" and int(offset) <= 14:
        return _RTMAX - int(offset)
    return None
