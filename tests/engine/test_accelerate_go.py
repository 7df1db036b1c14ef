"""Go's back ends with native twins give the same bytes as emulated ones."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

from anyarch.engine.request import Output
from anyarch.testing.apk_roots import apk_context
from anyarch.testing.builder import Builder
from anyarch.testing.debian_archive import DebianArchive
from anyarch.testing.debian_images import cached, golang_context
from anyarch.testing.debian_roots import cross_packages, release_context
from tests.engine.test_accelerate import ARM, BASE, BOTH, log, notes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

# a root with Go is 700 MB, and emulating its compiler takes its time
pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(1800)]

TOOLS = "/usr/lib/go-1.19/pkg/tool/linux_arm64"
MAIN = """package main

import (
	"fmt"
	"sort"
)

func main() {
	words := []string{"b", "a"}
	sort.Strings(words)
	fmt.Println(words, 0.1+0.2, half(3))
}
"""
PURE = """//go:build !cgo

package main

func half(x float64) float64 { return x / 2 }
"""
CGO = """package main

// #cgo LDFLAGS: -lm
// #include <math.h>
// static double half(double x) { return fma(x, 0.5, 0.0); }
import "C"

func half(x float64) float64 { return float64(C.half(C.double(x))) }
"""
TEST = """package main

import "testing"

func TestHalf(t *testing.T) {
	if half(3) != 1.5 {
		t.Fatal(half(3))
	}
}
"""
ASM = """#include "textflag.h"

TEXT \u00b7Answer(SB),NOSPLIT,$0-8
	MOVD $42, R0
	MOVD R0, ret+0(FP)
	RET
"""
SOURCES = {
    "go.mod": "module example.org/halves\n\ngo 1.19\n",
    "main.go": MAIN,
    "pure.go": PURE,
    "cgo.go": CGO,
    "half_test.go": TEST,
    "answer/answer.go": "package answer\n\nfunc Answer() int\n",
    "answer/answer_arm64.s": ASM,
}
DOCKERFILE = """
FROM debian AS work
ENV HOME=/root
COPY . /src/
WORKDIR /src
RUN {script}
FROM scratch
COPY --from=work /src /src
"""


class Go(NamedTuple):
    """A base image in which only the foreign side has Go, and where the native packages are."""

    base: str
    packages: Path

    def builder(self, directory: Path) -> Builder:
        return Builder(directory, build_contexts={"debian": self.base}, accelerate=self.mode("cross"))

    def mode(self, name: str) -> str:
        return f"{name},packages={self.packages}"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Go:
    directory = tmp_path_factory.mktemp("debian")
    base = chain_image(cache_directory, directory, ("golang-go",))
    return Go(base, chain_packages(cache_directory, directory, ("golang-1.19-go",)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, debian: Go) -> Builder:
    return debian.builder(tmp_path_factory.mktemp("accelerate"))


def chain_image(cache: Path, directory: Path, packages: Sequence[str]) -> str:
    """Debian 12 with a tool chain for arm64, and without it for this machine; as a build context."""
    roots = directory / "roots"
    release_context(cache, roots, ("arm64",), suite="bookworm", packages=packages)
    release_context(cache, roots, ("amd64",), suite="bookworm")
    builder = Builder(directory, context=str(roots))
    layout = directory / "layout"
    builder(BASE, platform=BOTH, outputs=(Output("oci", str(layout), {"tar": "false"}),))
    return f"oci-layout://{layout}"


def chain_packages(cache: Path, directory: Path, names: Sequence[str]) -> Path:
    """A directory with what twins are made of: for compilers and a tool chain."""

    def make(kept: Path) -> None:
        archive = DebianArchive(cache / "debian" / "apt-chain", {"bookworm": ["amd64"]})
        archive.download([f"{name}:amd64" for name in names], kept)

    found = directory / "packages"
    found.mkdir()
    more = cached(cache, f"chain-{names[0]}", make)
    for directory in (cross_packages(cache, "arm64", suite="bookworm"), more):
        for path in directory.glob("*.deb"):
            if not (found / path.name).exists():
                os.link(path, found / path.name)
    return found


def run(build: Builder, script: str, **request: object) -> tuple[BuiltImage, str]:
    """One RUN step in /src, which is all that is kept of it; and its log."""
    image = build(DOCKERFILE.format(script=script), platform=ARM, files=SOURCES, **request)
    return image, log(image)


COVERED = (
    "cp -r /root/.cache/go-build /root/.cache/covered && "
    "GOCACHE=/root/.cache/covered go test -c -cover -o covered ."
)
"""In a cache of its own: what is made for coverage names the random directory of its build."""
CACHED = """
cd /root/.cache/go-build
find . -name '*-d' | sort | xargs sha256sum > /src/cached
find . -name '*-a' | sort | xargs cut -d ' ' -f 1-4 >> /src/cached
"""
"""Of an entry all but the time when it was made."""


def test_a_verified_step_makes_the_same_files_and_cache(shared: Builder, debian: Go) -> None:
    """Programs with and without cgo, what tools make of tests, and what `go` tells of itself and of them."""
    script = (
        "go build -o with . && CGO_ENABLED=0 go build -o without . && ./with > with.out && "
        "./without > without.out && go vet ./... && go test -count=1 . > tested && "
        "go build -o answer.a ./answer && gofmt -l . > formatted && "
        f"{COVERED} && "
        "go env > environment && go version > version && go version -m with without >> version && "
        "go list -json -deps . > listed && go run . > run.out && go generate ./... && go tool > tools && "
        "go list -f '{{.GoFiles}}{{.CgoFiles}}' . >> listed"
    )
    shown = "sed -i -e s/go-build[0-9]*/go-build/ -e s/0.[0-9]*s/0s/ environment tested"
    dockerfile = DOCKERFILE.replace("RUN ", "RUN --mount=type=tmpfs,target=/root/.cache ")
    image = shared(
        dockerfile.format(script=f"<<END\nset -e\n{script}\n{shown}\n{CACHED}\nEND"),
        platform=ARM,
        files=SOURCES,
        accelerate=debian.mode("verify"),
    )
    told = log(image)

    assert "accelerate: verified: the files are the same" in told, told
    assert "accelerate: made a native go in " in told
    assert not re.search("accelerate: /usr/lib/go-1.19/.*emulated", told)
    assert image.read_text("/src/with.out") == image.read_text("/src/run.out") == "[a b] 0.3 1.5\n"
    assert 'GOHOSTARCH="arm64"' in image.read_text("/src/environment")


def test_go_is_made_when_it_has_compiled(tmp_path: Path, debian: Go) -> None:
    """Not before: a store that is thrown away would never get back what it costs."""
    build = debian.builder(tmp_path)
    tell = "go env GOHOSTARCH && go tool compile -V=full"
    compiled = "for n in 1 2 3; do CGO_ENABLED=0 go build -ldflags=-X=main.number=$n .; done"
    first, second, third, fourth = (
        run(build, f"{script} && : {number}")[1] for number, script in enumerate((tell, compiled, tell, tell))
    )

    waiting = "/usr/lib/go-1.19/bin/go is emulated: its twin takes a minute to make"
    assert waiting in first
    assert waiting in second
    assert "made a native go in" in third
    assert "/usr/lib/go-1.19/bin/go" not in notes(fourth)
    assert "\narm64\n" in third


def test_a_native_program_calls_itself_what_the_emulated_one_does(shared: Builder) -> None:
    """What caches of the go command are keyed by; and without its variables it is the emulated one."""
    script = (
        "for tool in asm cgo compile cover link vet; do go tool $tool -V=full; done > versions; "
        f"go env GOARCH GOHOSTARCH GOTOOLDIR CGO_ENABLED > environment; {TOOLS}/compile -V=full > direct"
    )
    plain, _ = run(shared, script, accelerate="off")
    fast, told = run(shared, script)

    for name in ("versions", "environment", "direct"):
        assert fast.read_text(f"/src/{name}") == plain.read_text(f"/src/{name}")
    (line,) = [line for line in notes(told).splitlines() if "/compile was emulated" in line]
    assert "1 times because a variable" in line


def test_a_replaced_compiler_is_emulated(shared: Builder) -> None:
    _, told = run(
        shared,
        f"cp {TOOLS}/asm /tmp/asm && cat /tmp/asm > {TOOLS}/asm && go tool asm -V=full",
    )

    (line,) = [line for line in notes(told).splitlines() if "/asm was emulated" in line]
    assert "is not the package's any more" in line


def test_a_build_cache_serves_both(shared: Builder) -> None:
    """What one has compiled the other finds, and so do other settings of the architecture each their own."""
    script = "go build -v -o program . 2> compiled && GOARM64=v8.0 go vet . && sha256sum program > sum"
    dockerfile = DOCKERFILE.replace("RUN ", "RUN --mount=type=cache,target=/root/.cache ")
    first, second, third = (
        shared(dockerfile.format(script=f"{script}; : {number}"), platform=ARM, files=SOURCES, **mode)
        for number, mode in enumerate(({}, {"accelerate": "off"}, {}))
    )

    assert "example.org/halves" in first.read_text("/src/compiled")
    assert second.read_text("/src/compiled") == third.read_text("/src/compiled") == ""
    assert first.read_text("/src/sum") == second.read_text("/src/sum") == third.read_text("/src/sum")


@pytest.mark.parametrize("distribution", ["debian", "alpine"])
def test_go_of_the_base_image_is_taken_from_its_native_sibling(
    tmp_path: Path, cache_directory: Path, distribution: str
) -> None:
    """Oracle: the native Go, which cross-compiles. A Go that is not as the base image has it is emulated."""
    context = tmp_path / "context"
    if distribution == "debian":
        release_context(cache_directory, context, ("arm64", "amd64"), suite="bookworm")
    else:
        context.mkdir()
        for path in apk_context(cache_directory, ("amd64", "arm64", "s390x")).glob("*.tar"):
            os.link(path, context / path.name)
    for path in golang_context(cache_directory, ("amd64", "arm64")).glob("*.tar"):
        os.link(path, context / path.name)
    layout = tmp_path / "layout"
    base = f"{BASE}ADD go-$TARGETARCH.tar /usr/local/\nENV PATH=/usr/local/go/bin:/usr/bin:/bin\n"
    output = Output("oci", str(layout), {"tar": "false"})
    Builder(tmp_path / "base", context=str(context))(base, platform=BOTH, outputs=(output,))
    build = Builder(
        tmp_path / "build", build_contexts={"debian": f"oci-layout://{layout}"}, accelerate="cross"
    )
    script = "CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build -trimpath -o program ."
    fast, told = run(build, f"{script} && ./program")
    native = build(DOCKERFILE.format(script=script), platform="linux/amd64", files=SOURCES)
    image = build(
        "FROM debian\nRUN touch /usr/local/go/pkg/tool/linux_arm64/asm\nRUN go tool asm -V=full > /v",
        platform=ARM,
    )

    assert fast.path("/src/program").read_bytes() == native.path("/src/program").read_bytes()
    assert "/compile was emulated" not in notes(told)
    assert "/usr/local/go is emulated" not in notes(told)
    assert "/usr/local/go is emulated: go1.27.3 is not the base image's, but came by a step" in log(image)


ODD = {
    "go.mod": "module example.org/odd\n\ngo 1.19\n\nrequire example.org/other v1.0.0\n",
    "main.go": (
        'package main\n\nimport (\n\t_ "embed"\n\n\t"example.org/odd/answer"\n\t"example.org/other"\n)\n\n'
        "//go:embed go.mod\nvar text string\n\n"
        "func main() { println(len(text), word, other.Name, answer.Answer()) }\n"
    ),
    "word_arm64.go": 'package main\n\nconst word = "arm64"\n',
    "word.go": '//go:build !arm64\n\npackage main\n\nconst word = "other"\n',
    "answer/answer.go": SOURCES["answer/answer.go"],
    "answer/answer_arm64.s": SOURCES["answer/answer_arm64.s"],
    "answer/answer_other.go": (
        "//go:build !arm64\n\npackage answer\n\nfunc init() { /* no body there */ }\n"
    ),
    "vendor/modules.txt": "# example.org/other v1.0.0\n## explicit\nexample.org/other\n",
    "vendor/example.org/other/other.go": 'package other\n\nconst Name = "vendored"\n',
    "six/six.go": (
        "package main\n\n// #cgo CFLAGS: -O1 -DTWO=2 -DTHREE=3\n"
        "// static int six(void) { return TWO * THREE; }\n"
        'import "C"\n\nfunc main() { println(C.six()) }\n'
    ),
    "exec.sh": (
        '#!/bin/sh\necho "$GOHOSTARCH $GOARCH $GOARM $CGO_ENABLED ${1##*/}" >> /src/executed\nexec "$@"\n'
    ),
}
TRICKS = {
    "modules, vendored, by architecture, embedded, with assembly": (
        "go build -o odd . && ./odd 2> odd.out && go list -deps . > listed && go vet . ./answer"
    ),
    "settings that are kept": (
        "go env -w GOARCH=arm CGO_ENABLED=0 && go env GOARCH GOARM CGO_ENABLED > kept && "
        "go build -o shared.arm internal/goarch && go env -u GOARCH && go env -u CGO_ENABLED"
    ),
    "what programs of the build see": (
        "chmod 755 exec.sh && GOFLAGS='-toolexec=/src/exec.sh -p=1' go build -a -o traced ./answer && "
        "GOARM=6 GOARCH=arm GOFLAGS='-toolexec=/src/exec.sh -p=1' go build -o traced6 internal/goarch"
    ),
    "C with flags, and linking by its compiler": (
        "go build -ldflags=-linkmode=external -o six.bin ./six && ./six.bin 2> six.out"
    ),
    "another GOROOT": (
        "mkdir -p /opt/go/bin /opt/go/pkg && cp -p /usr/lib/go-1.19/bin/go /opt/go/bin && "
        "cp -p /usr/lib/go-1.19/VERSION /opt/go && ln -s /usr/lib/go-1.19/src /opt/go/src && "
        "ln -s /usr/lib/go-1.19/pkg/* /opt/go/pkg && /opt/go/bin/go env GOROOT GOTOOLDIR > roots && "
        "ln -s /usr/lib/go-1.19/bin/go gone && ./gone env GOROOT GOTOOLDIR >> roots && "
        "GOROOT=/opt/go go env GOROOT GOTOOLDIR >> roots"
    ),
    "programs in front of the compiler and of go": (
        f"mkdir /opt/real && mv {TOOLS}/compile /opt/real/ && "
        f"printf '#!/bin/sh\\necho $# >> /src/counted\\nexec /opt/real/compile \"$@\"\\n' "
        f"> {TOOLS}/compile && chmod 755 {TOOLS}/compile && go build -p 1 -o fronted . && "
        "mv /usr/lib/go-1.19/bin/go /usr/lib/go-1.19/bin/moved && "
        "/usr/lib/go-1.19/bin/moved env GOROOT GOHOSTARCH > moved"
    ),
}


def test_odd_builds_are_equal_in_a_verified_step(tmp_path: Path, shared: Builder, debian: Go) -> None:
    script = "\n".join(f"echo '{name}'\n{line}" for name, line in TRICKS.items())
    image = shared(
        DOCKERFILE.replace("RUN ", "RUN --mount=type=tmpfs,target=/root/.cache ").format(
            script=f"<<END\nset -e\n{script}\nEND"
        ),
        platform=ARM,
        context=str(write(tmp_path / "odd", ODD)),
        accelerate=debian.mode("verify"),
    )
    told = notes(log(image))

    assert "accelerate: verified: the files are the same" in told, told
    assert re.search("/usr/lib/go-1.19/bin/go was emulated .* because it was a copy in another place", told)
    assert "arm64 vendored 42" in image.read_text("/src/odd.out")
    assert image.read_text("/src/six.out") == "6\n"
    assert image.read_text("/src/kept").split()[0::2] == ["arm", "0"]
    assert "arm64 arm 6 0 compile" in image.read_text("/src/executed")
    assert image.read_text("/src/roots").split()[0::2] == ["/opt/go", "/usr/lib/go-1.19", "/opt/go"]
    assert "arm64" in image.read_text("/src/moved")


MORE = "/usr/share/go-1.19/src/cmd/go/internal/cfg/more.go"
CHANGED = f"FROM debian\nENV HOME=/root\nRUN echo package cfg > {MORE}\nRUN go version > /version\n"


def test_go_is_not_made_from_sources_that_a_step_has_changed(tmp_path: Path, debian: Go) -> None:
    """They are no more what the emulated one was made from."""
    image = debian.builder(tmp_path)(CHANGED, platform=ARM, accelerate=debian.mode("verify"))

    reason = f"{MORE} is not as golang-1.19-go brought it"
    assert f"accelerate: /usr/lib/go-1.19/bin/go is emulated: {reason}" in log(image)
    assert image.read_text("/version").endswith(" linux/arm64\n")


def test_a_go_that_is_made_does_not_depend_on_its_sources(shared: Builder) -> None:
    """Nor does the emulated one; what it compiles does."""
    image = shared(CHANGED, platform=ARM)

    assert "/usr/lib/go-1.19/bin/go" not in notes(log(image))
    assert image.read_text("/version").endswith(" linux/arm64\n")


def write(directory: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory
