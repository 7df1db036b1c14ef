"""Go's sources are changed where they mean the architecture, and nowhere else."""

from __future__ import annotations

from anyarch.emulation.accelerate.gocommand import rewritten

SOURCE = b"""package cfg

import (
\t"os"
\t"runtime"
)

// runtime.GOARCH is what it was built for; os.Executable() where
/* runtime.GOARCH */
const quote = '"'
const own = runtime.GOARCH

var help = `as spelled by runtime.GOARCH, "`
var text = "\\"runtime.GOARCH" + runtime.GOOS + "_" + runtime.GOARCH
var same = xruntime.GOARCH + a.runtime.GOARCH + runtime.GOARCHES

func exe() (string, error) { return os.Executable() }
"""


def changed(source: bytes) -> bytes:
    return rewritten(source, target="arm64", program="/usr/lib/go/bin/go")


def test_code_is_changed_and_comments_and_texts_are_not() -> None:
    before, after = SOURCE.decode().splitlines(), changed(SOURCE).decode().splitlines()

    assert {now for now in after if now not in before} == {
        'const own = string("arm64")',
        'var text = "\\"runtime.GOARCH" + runtime.GOOS + "_" + string("arm64")',
        'func exe() (string, error) { return func() (string, error) { return "/usr/lib/go/bin/go", nil }() }',
        "const _ = runtime.GOOS",
        "var _ = os.Args",
    }
    assert [line for line in before if line not in after] == [
        "const own = runtime.GOARCH",
        'var text = "\\"runtime.GOARCH" + runtime.GOOS + "_" + runtime.GOARCH',
        "func exe() (string, error) { return os.Executable() }",
    ]


def test_what_tells_nothing_stays_the_same_object() -> None:
    source = b'package x\n\nvar x = "runtime.GOARCH"\n'

    assert changed(source) is source
