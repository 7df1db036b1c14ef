"""Users and groups of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.errors import BuildError
from anyarch.worker.passwd import Identity, UserDatabase

if TYPE_CHECKING:
    from .conftest import Trees

PASSWD = b"root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1000:1001::/home/app:\nnum:x:7:7:::\n"
GROUP = b"root:x:0:\nwheel:x:10:app,other\nstaff:x:50:\n\nempty\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (0,), "/root")),
        ("root", Identity(0, 0, (0,), "/root")),
        ("app", Identity(1000, 1001, (1001, 10), "/home/app")),
        ("1000", Identity(1000, 1001, (1001, 10), "/home/app")),
        ("app:staff", Identity(1000, 50, (50,), "/home/app")),
        ("app:77", Identity(1000, 77, (77,), "/home/app")),
        ("4242", Identity(4242, 0, (0,))),
        ("4242:4343", Identity(4242, 4343, (4343,))),
    ],
)
def test_users_as_the_instruction_names_them(trees: Trees, user: str, expected: Identity) -> None:
    users = UserDatabase(trees.tree({"etc/passwd": PASSWD, "etc/group": GROUP}))
    assert users.identity(user) == expected


@pytest.mark.parametrize("user", ["nobody", "-1", "99999999999", "app:nogroup"])
def test_an_unknown_user_is_an_error(trees: Trees, user: str) -> None:
    users = UserDatabase(trees.tree({"etc/passwd": PASSWD, "etc/group": GROUP}))
    with pytest.raises(BuildError, match="unable to find"):
        users.identity(user)


def test_numbers_need_no_files(trees: Trees) -> None:
    assert UserDatabase(None).identity("5:6") == Identity(5, 6, (6,))
    assert UserDatabase(None).ids_of("x") == (0, 0)
    assert UserDatabase(trees.tree({"etc/passwd": "/nowhere"})).identity("") == Identity(0, 0, (0,))
