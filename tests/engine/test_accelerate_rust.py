"""rustc's native twin makes the same executables as the emulated one, and procedural macros are emulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.testing.builder import Builder
from tests.engine.test_accelerate import ARM, differing, log, notes
from tests.engine.test_accelerate_go import chain_image, chain_packages

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

# rustc and LLVM of two architectures are 150 MB to fetch, and emulating them takes its time
pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(1800)]

LIBRARIES = (
    *("libbsd0", "libc6", "libedit2", "libffi8", "libgcc-s1", "libicu72", "libllvm14", "liblzma5", "libmd0"),
    *("libstd-rust-1.63", "libstdc++6", "libtinfo6", "libxml2", "libz3-4", "zlib1g"),
)
PLAIN = """
use std::{collections::HashMap, fmt::Debug, hash::Hash};
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind<T> { One(T), Many { all: Vec<T>, name: String } }
pub fn count<K: Hash + Eq + Clone>(all: &[K]) -> HashMap<K, usize> {
    let mut found = HashMap::new();
    for one in all { *found.entry(one.clone()).or_insert(0) += 1; }
    found
}
pub const fn sum(n: u64) -> u64 { if n == 0 { 0 } else { n + sum(n - 1) } }
pub static SUM: u64 = sum(20);
pub fn constants() -> [f64; 5] { [1.5f64.sin(), 2.5f64.exp(), 3.1f64.ln(), 0.7f64.powf(1.3), 0.1 + 0.2] }
pub fn shown<T: Debug>(kind: &Kind<T>) -> String { format!("{:?}", kind) }
"""
MACROS = """
extern crate proc_macro;
use proc_macro::TokenStream;
#[proc_macro]
pub fn answer(_: TokenStream) -> TokenStream { "42".parse().unwrap() }
"""
SOURCES = {
    "plain.rs": PLAIN,
    "macros.rs": MACROS,
    "using.rs": "pub fn answer() -> u32 { macros::answer!() }\n",
    "above.rs": 'fn main() { println!("{}", 2 * using::answer()); }\n',
    "main.rs": 'fn main() { println!("{:?} {} {}", plain::constants(), plain::SUM,\n'
    ' plain::shown(&plain::Kind::One(plain::count(&["a", "a"])["a"]))); }\n',
    "wrong.rs": "fn main() { let x: u32 = 1.0; }\n",
}
DOCKERFILE = """
FROM debian AS work
RUN ln -sf gcc /usr/bin/cc
COPY . /src/
WORKDIR /src
RUN {script}
FROM scratch
COPY --from=work /src /src
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Builder:
    """Above a base image in which only the foreign side has Rust."""
    directory = tmp_path_factory.mktemp("debian")
    base = chain_image(cache_directory, directory, ("rustc",))
    packages = chain_packages(cache_directory, directory, ("rustc", *LIBRARIES))
    return Builder(
        tmp_path_factory.mktemp("accelerate"),
        build_contexts={"debian": base},
        accelerate=f"cross,packages={packages}",
    )


def run(build: Builder, script: str, **request: object) -> tuple[BuiltImage, str]:
    """One RUN step in /src, which is all that is kept of it; and its log."""
    image = build(DOCKERFILE.format(script=script), platform=ARM, files=SOURCES, **request)
    return image, log(image)


def test_executables_are_equal_and_those_that_macros_reach_are_emulated(shared: Builder) -> None:
    """Libraries are emulated, and so is a rustc that nobody has told what its crate is."""
    script = (
        "rustc --edition 2021 --crate-type proc-macro macros.rs && "
        "rustc --edition 2021 --crate-type rlib --extern macros=libmacros.so using.rs && "
        "rustc --edition 2021 -g --crate-type rlib plain.rs && export CARGO_CRATE_NAME=main && "
        "rustc --edition 2021 --crate-type bin --emit=dep-info,link -C debuginfo=2 --extern "
        "plain=libplain.rlib main.rs && ./main > said && "
        "rustc --edition 2021 --crate-type bin -L . --extern using=libusing.rlib above.rs && ./above >> said"
    )
    plain, _ = run(shared, script, accelerate="off")
    fast, told = run(shared, script)

    names = ("libmacros.so", "libusing.rlib", "libplain.rlib", "main", "main.d", "above", "said")
    assert differing(fast, plain, names) == []
    (line,) = [line for line in notes(told).splitlines() if "/rustc was emulated" in line]
    assert "3 times because a variable" in line
    assert "1 times because the native one failed" in line


def test_questions_and_errors_are_answered_by_the_emulated_rustc(shared: Builder) -> None:
    script = (
        "export CARGO_CRATE_NAME=x; rustc -vV > version; "
        "rustc --print cfg > cfg; rustc --print sysroot > sysroot; "
        "rustc wrong.rs 2> error || echo $? >> error; "
        "rustc -C target-cpu=native --emit asm -o native.s --crate-type lib plain.rs; "
        "echo 'fn main() {}' | rustc --emit obj -o piped.o -"
    )
    plain, _ = run(shared, script, accelerate="off")
    fast, told = run(shared, script)

    assert differing(fast, plain, ("version", "cfg", "sysroot", "error", "native.s", "piped.o")) == []
    assert "host: aarch64-unknown-linux-gnu" in fast.read_text("/src/version")
    assert "E0308" in fast.read_text("/src/error")
    (line,) = [line for line in notes(told).splitlines() if "/rustc was emulated" in line]
    assert "5 times because an argument" in line
    assert "1 times because the native one failed" in line
