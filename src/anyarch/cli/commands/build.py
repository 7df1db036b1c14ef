"""`anyarch build`: the flags of `docker buildx build`, and the course of one build on the command line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, BinaryIO

from anyarch.cli.flags import Command, Flag
from anyarch.errors import AnyarchError

if TYPE_CHECKING:
    from anyarch.builder.builder import Builder
    from anyarch.cli.flags import Parsed
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken, Method
    from anyarch.progress.display import Display

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "build",
    aliases=("b",),
    summary="Build an image for one or many platforms",
    usage="build [OPTIONS] PATH | URL | -",
    description=(
        "Build an image from a Dockerfile. With several platforms the result is one image index. The "
        "result goes where "
        "--output, --push and --load send it; with only a tag it is kept in the local store, where "
        "`anyarch run` finds "
        "it. Attestations are not made by default, unlike in docker buildx."
    ),
    arguments=(
        ("PATH", "directory with the files that COPY and ADD may use: the build context"),
        ("URL", "git repository (https://host/repository.git#ref:directory), archive, or Dockerfile"),
        ("-", "standard input: an archive (tar, also compressed) is the context, a text is the Dockerfile"),
    ),
    least=1,
    most=1,
    flags=(
        Flag(
            "accelerate",
            "Native twins for emulated steps: off, tools, cross, verify (default: off)",
            metavar="MODE[,packages=SOURCE]",
        ),
        Flag("add-host", "Add a line to /etc/hosts of RUN steps", metavar="HOST:IP", repeat=True),
        Flag(
            "allow",
            "Allow network.host, security.insecure, device[=NAME], or buildx.local.delete",
            metavar="ENTITLEMENT",
            repeat=True,
        ),
        Flag("annotation", "Add an annotation to the image", metavar="[TYPE:]KEY=VALUE", repeat=True),
        Flag(
            "arch-check",
            "Check that new files are for their platform, and can start there (default: warn)",
            metavar="MODE",
            choices=("off", "warn", "error"),
        ),
        Flag(
            "arch-check-allow",
            "Paths that may be for another platform, as in a .dockerignore file",
            metavar="PATTERN",
            repeat=True,
        ),
        Flag(
            "attest",
            "Attestation: type=provenance or type=sbom with their attributes, or disabled=true",
            metavar="ATTRS",
            repeat=True,
        ),
        Flag(
            "build-arg",
            "Set a build argument; KEY alone takes the environment's value",
            metavar="KEY[=VALUE]",
            repeat=True,
        ),
        Flag("build-context", "Name a further build context", metavar="NAME=VALUE", repeat=True),
        Flag(
            "cache-from",
            "Take results of steps from a cache: a reference, or type=registry|local|s3|azblob|gha,…",
            metavar="ATTRS",
            repeat=True,
        ),
        Flag(
            "cache-to",
            "Write a cache: type=inline|registry|local|s3|azblob|gha,…; mode=max for all steps",
            metavar="ATTRS",
            repeat=True,
        ),
        Flag(
            "call",
            "Answer a question instead of building: check, outline, targets; ,format=json ,ignorestatus=true",
            metavar="METHOD[,...]",
        ),
        Flag("cgroup-parent", "Parent control group of RUN steps", metavar="CGROUP"),
        Flag("check", "Check the Dockerfile and build nothing: --call=check"),
        Flag(
            "emulators",
            "Directory of the QEMU programs to use, in place of the machine's",
            metavar="DIR",
            complete="directory",
        ),
        Flag(
            "file",
            "Dockerfile, relative to the current directory; - is standard input (default: PATH/Dockerfile)",
            short="f",
            metavar="PATH",
            complete="file",
        ),
        Flag("iidfile", "Write the image id to a file", metavar="PATH", complete="file"),
        Flag("keep-going", "Build the other platforms to the end when one fails; then nothing is published"),
        Flag("label", "Add a label to the image's configuration", metavar="KEY=VALUE", repeat=True),
        Flag("load", "Load the result into docker or podman: --output=type=docker"),
        Flag(
            "lock",
            "Take base images as a file says that `anyarch fetch --lock` wrote",
            metavar="FILE",
            complete="file",
        ),
        Flag("metadata-file", "Write what was built to a file, as JSON", metavar="PATH", complete="file"),
        Flag("network", "Network of RUN steps: default, host or none", metavar="MODE"),
        Flag("no-cache", "Run every step, whatever the cache has"),
        Flag("no-emulation", "Refuse steps that would need an emulator, before any work"),
        Flag("no-cache-filter", "Run every step of these stages", metavar="STAGE,...", repeat=True),
        Flag(
            "optional",
            "Platforms that may fail: the result is then made and published without them",
            metavar="PLATFORM,...",
            repeat=True,
        ),
        Flag("offline", "Open no socket: take base images from the store and the bundle of --lock"),
        Flag(
            "output",
            "Where the result goes: DIR, -, or type=image|registry|oci|docker|local|tar|cacheonly,dest=...",
            short="o",
            metavar="DEST",
            repeat=True,
            complete="file",
        ),
        Flag(
            "parallel",
            "How much is done at once: exec=N steps, network=N transfers, cpu=N layers compressed",
            metavar="RESOURCE=N,...",
            repeat=True,
        ),
        Flag(
            "part",
            "Write the result into a directory as a part of an image, for `anyarch merge`",
            metavar="DIR",
            complete="directory",
        ),
        Flag(
            "platform",
            "Platforms to build for: a comma list; local is this machine's",
            metavar="OS/ARCH[/VARIANT],...",
            repeat=True,
        ),
        Flag("plan", "Print how each stage would run for each platform, and build nothing"),
        Flag(
            "policy",
            "Source policy: disabled=true ignores a .rego file beside the Dockerfile; others are refused",
            metavar="ATTRS",
            repeat=True,
        ),
        Flag("progress", "How progress is shown: auto, none, plain, quiet, rawjson, tty", metavar="MODE"),
        Flag(
            "proxy-network",
            "Steps have the network through a proxy only, and provenance tells what they fetched",
        ),
        Flag(
            "provenance",
            "Provenance attestation; false, or attributes such as mode=max",
            metavar="BOOL|ATTRS",
        ),
        Flag("pull", "Look up base images in their registries, even when they are here"),
        Flag("push", "Push the result: --output=type=registry"),
        Flag("quiet", "Show no progress, print the image id", short="q"),
        Flag(
            "require",
            "Platforms without which nothing is published; all others are optional",
            metavar="PLATFORM,...",
            repeat=True,
        ),
        Flag(
            "resource",
            "Limit of a RUN step: memory=2g, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, "
            "cpuset-mems",
            metavar="KEY=VALUE",
            repeat=True,
        ),
        Flag("sbom", "SBOM attestation; attributes such as generator=IMAGE", metavar="BOOL|ATTRS"),
        Flag("secret", "Secret for RUN steps", metavar="ATTRS", repeat=True),
        Flag("shm-size", "Size of /dev/shm in RUN steps", metavar="BYTES"),
        Flag("ssh", "SSH agent or keys for RUN steps", metavar="ID[=PATH,...]", repeat=True),
        Flag("stage-platform", "FROM --platform=… of a stage makes that stage again for the platform"),
        Flag("tag", "Name of the image", short="t", metavar="[REGISTRY/]NAME[:TAG]", repeat=True),
        Flag("target", "Stage to build", metavar="STAGE"),
        Flag(
            "test",
            "Run a command in the image of each platform, and publish only what passed",
            metavar="COMMAND",
            repeat=True,
        ),
        Flag("ulimit", "Limit of RUN steps", metavar="NAME=SOFT[:HARD]", repeat=True),
        # Flags that docker build knows and buildx hides.
        Flag("compress", "Compress the build context", hidden=True, state="ignored"),
        Flag("cpu-period", "CPU period", metavar="N", hidden=True),
        Flag("cpu-quota", "CPU quota", metavar="N", hidden=True),
        Flag("cpu-shares", "CPU shares", short="c", metavar="N", hidden=True),
        Flag("cpuset-cpus", "CPUs to use", metavar="LIST", hidden=True),
        Flag("cpuset-mems", "Memory nodes to use", metavar="LIST", hidden=True),
        Flag("force-rm", "Always remove intermediate containers", hidden=True, state="ignored"),
        Flag(
            "isolation",
            "Isolation technology",
            metavar="NAME",
            hidden=True,
            state="ignored",
            warning="isolation flag is deprecated with BuildKit.",
        ),
        Flag("memory", "Memory limit", short="m", metavar="BYTES", hidden=True),
        Flag("memory-swap", "Memory and swap limit", metavar="BYTES", hidden=True),
        Flag("print", "Old name of --call", metavar="METHOD", hidden=True),
        Flag("rm", "Remove intermediate containers", hidden=True, state="ignored"),
        Flag(
            "security-opt",
            "Security options",
            metavar="OPTION",
            repeat=True,
            hidden=True,
            state="ignored",
            warning=(
                'security-opt flag is deprecated. "RUN --security=insecure" should be used with BuildKit.'
            ),
        ),
        Flag(
            "squash",
            "Squash layers",
            hidden=True,
            state="ignored",
            warning=(
                "experimental flag squash is removed with BuildKit. You should squash inside "
                "build using a multi-stage Dockerfile for efficiency."
            ),
        ),
    ),
    examples=(
        (
            "Two platforms into an OCI archive",
            "anyarch build --platform linux/amd64,linux/arm64 -o type=oci,dest=app.tar .",
        ),
        (
            "Push under two tags",
            "anyarch build --platform linux/amd64,linux/arm64 -t reg.example.com/app:1 -t "
            "reg.example.com/app --push .",
        ),
        ("Only the files of the result", "anyarch build -o out ."),
        ("What would be emulated", "anyarch build --plan --platform linux/amd64,linux/arm64 ."),
        ("A Dockerfile without a context", "echo 'FROM busybox' | anyarch build -t small -"),
    ),
)

BEFORE = "failed to build: "
SOLVING = "failed to build: failed to solve: "


def run(parsed: Parsed) -> int:
    """One build. Exit status 0, 1 or 130 (stopped)."""
    from anyarch.cli.builders import builder_for_build
    from anyarch.cli.dispatch import stderr
    from anyarch.cli.environment import check_environment
    from anyarch.cli.errors import report
    from anyarch.cli.policy import check_policies
    from anyarch.cli.request import build_request, display_mode, method_of
    from anyarch.cli.results import remove_iidfile
    from anyarch.engine.validate import prepare

    mode, prints_id = display_mode(parsed, stderr(), os.environ)
    check_environment(os.environ, stderr())
    builder = builder_for_build(parsed)
    request = build_request(parsed, os.environ, _stdin)
    check_policies(parsed.texts("policy"), request)
    has_output = bool(request.outputs)
    remove_iidfile(parsed)
    try:
        request = prepare(request, stdout_is_terminal=lambda: sys.stdout is not None and sys.stdout.isatty())
    except Exception as error:
        return report(error, stderr(), prefix=BEFORE, debug=parsed.debug, command="build")
    if parsed.switch("plan"):
        from anyarch.cli.plan import run_plan

        return run_plan(request, "quiet" if prints_id else mode, debug=parsed.debug, builder=builder)
    asked = method_of(parsed)
    if asked.name == "build" and not has_output:
        from anyarch.cli.outputs import with_default_output

        try:
            request = with_default_output(request, builder, os.environ)
        except AnyarchError as error:
            return report(error, stderr(), prefix=BEFORE, debug=parsed.debug, command="build")
    return _build(parsed, request, mode, asked, builder, prints_id=prints_id)


def _build(
    parsed: Parsed,
    request: BuildRequest,
    mode: str,
    asked: Method,
    builder: Builder | None,
    *,
    prints_id: bool,
) -> int:
    from anyarch.cli.dispatch import stderr
    from anyarch.cli.errors import EXIT_CANCELED, EXIT_INTERNAL, broken_pipe, report
    from anyarch.cli.results import details_text, write_results
    from anyarch.cli.signals import stopping
    from anyarch.engine.request import CancelToken
    from anyarch.progress import open_display

    cancel = CancelToken()
    name = (builder.name, builder.driver) if builder is not None else None
    display = open_display(mode, stderr(), builder=name)
    try:
        with stopping(cancel, notice=mode == "plain"), display:
            result = _solve(request, builder, display, cancel)
        if display.failure is not None and not isinstance(display.failure, OSError):
            what = f"{type(display.failure).__name__}: {display.failure}"
            print(f"WARNING: the progress display broke off ({what}); the build is complete", file=stderr())
        _tell_display_failure(display)
        write_results(parsed, result, display.trace, mode, prints_id=prints_id)
        if asked.name != "build":
            from anyarch.cli.answers import print_answer, shown_dockerfile

            return print_answer(result, asked, shown_dockerfile(request))
    except BaseException as error:
        display.close()
        pipe = broken_pipe(error)
        if pipe is not None:
            raise pipe from None
        # The log of a failed step is part of the picture that tty and plain have drawn; rawjson has told it
        # all.
        failures = () if mode == "rawjson" else display.trace.failures()
        status = report(
            error,
            stderr(),
            prefix=SOLVING,
            debug=parsed.debug,
            command="build",
            failures=failures,
            canceled=cancel.is_set(),
        )
        if mode not in ("rawjson", "quiet"):
            stderr().write(details_text(getattr(error, "build_ref", None), os.environ))
        # What `run` would answer for a program that is missing (127) is a failed build like any other here.
        return status if status in (EXIT_CANCELED, EXIT_INTERNAL) else 1
    return 0


def _tell_display_failure(display: Display) -> None:
    """A display that broke is no reason to fail, but to say why nothing was shown; a closed stream needs no
    word."""
    failure = display.failure
    if failure is not None and not isinstance(failure, (OSError, ValueError)):
        from anyarch.cli.dispatch import stderr

        stderr().write(
            f"WARNING: the progress display failed ({type(failure).__name__}: {failure}); please report it\n"
        )


def _solve(
    request: BuildRequest, builder: Builder | None, display: Display, cancel: CancelToken
) -> BuildResult:
    if builder is not None:
        import asyncio

        from anyarch.builder.build import build_on

        return asyncio.run(build_on(builder, request, display.sink, cancel))
    from anyarch import engine

    if "provenance" in request.attests:
        from anyarch.builder.vcs import told_repository
        from anyarch.solver.events import WarningEvent
        from anyarch.spec.digest import Digest

        def warn(text: str) -> None:
            display.sink(WarningEvent(Digest.of(text.encode()), text))

        import msgspec

        repository = told_repository(request.context, os.environ, warn)
        request = msgspec.structs.replace(request, repository=repository)
    return engine.build(request, on_event=display.sink, cancel=cancel)


def _stdin() -> BinaryIO | None:
    return sys.stdin.buffer if sys.stdin is not None else None
