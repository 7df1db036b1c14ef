"""What the machine refuses, in the words of a user."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyarch.errors import NoSpace, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["os_errors"]


@contextmanager
def os_errors() -> Iterator[None]:
    """Turn what the machine refuses anywhere in a build into an error that says so."""
    try:
        yield
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left on device{where}",
                hint="free space on the disk of the store or output, or set ANYARCH_ROOT to another disk",
            ) from None
        raise OutputError(f"{error.strerror or error}{where}") from error
