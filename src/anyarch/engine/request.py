"""What the engine is asked for and what it answers: the values between the engine and its callers.

The command line, the Python API (`anyarch.build`) and later the daemon all make these. Nothing here does
any work or reads a file, so the module costs next to nothing to import. Texts are in the form a user wrote
them unless a field says otherwise; `engine.validate` checks what can be checked before any work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Annotation",
    "BuildRequest",
    "BuildResult",
    "CacheOption",
    "CancelToken",
    "Method",
    "Output",
    "PlatformResult",
    "Port",
    "RunRequest",
    "Secret",
    "Ssh",
    "Ulimit",
    "Volume",
]


class Output(msgspec.Struct, frozen=True):
    """One `--output`. `type` is one of image, registry, oci, docker, local, tar, cacheonly; `dest` a path,
    or `-` for standard output; `attrs` are the exporter's other attributes with lower-case keys (`name`,
    `push`, `tar`, …)."""

    type: str
    dest: str | None = None
    attrs: dict[str, str] = {}


class CacheOption(msgspec.Struct, frozen=True):
    """One `--cache-from` or `--cache-to`."""

    type: str
    attrs: dict[str, str] = {}


class Secret(msgspec.Struct, frozen=True):
    """One `--secret`: the value is in the file `source`, or in the environment variable `env`."""

    id: str
    source: str | None = None
    env: str | None = None


class Ssh(msgspec.Struct, frozen=True):
    """One `--ssh`: agent sockets or key files; empty `paths` means `$SSH_AUTH_SOCK`."""

    id: str = "default"
    paths: tuple[str, ...] = ()


class Ulimit(msgspec.Struct, frozen=True):
    """One `--ulimit`; -1 is unlimited."""

    name: str
    soft: int
    hard: int


class Annotation(msgspec.Struct, frozen=True):
    """One `--annotation`. `kind` is manifest, manifest-descriptor, index or index-descriptor; `platform`
    may be empty (all)."""

    key: str
    value: str
    kind: str = "manifest"
    platform: str = ""


class Method(msgspec.Struct, frozen=True):
    """One `--call`: what is asked, `json` or nothing for text, and whether the exit status that the answer
    has is not to count."""

    name: str = "build"
    format: str = ""
    ignore_status: bool = False


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """A git repository: the root of its work tree, the address of its remote, the commit that is checked out
    (each of the two empty where there is none)."""

    root: str
    source: str = ""
    revision: str = ""


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One build.

    `context` is a directory, a URL, a git repository, or `-`: then it is the archive `context_tar` (any
    compression, read once to its end), or empty when that is None. `dockerfile` is a path relative to the
    working directory, in a remote context or an archive one relative to its root, or a URL (None:
    `Dockerfile` in the context); `dockerfile_data` is its text when it came from standard input or
    is given inline, and wins. `platforms` are normalised texts (`linux/arm64`) in the wanted order, empty
    for the machine's own; with `multi_platform` even one of them makes an index. `build_args` hold values
    only (names without a value were looked up by the caller). No `outputs` and no `tags` means that the
    result stays in the cache. `no_cache_filter` names stages. `call` other than build (`lint`, `outline`,
    `targets`) is a question about the Dockerfile: nothing is built, and the answer is in the result's
    metadata. `attests` maps a type (`provenance`, `sbom`) to its attributes; a type that is disabled is
    absent. With `default_provenance` images that are pushed are attested as docker buildx does where nothing
    is said of it; `metadata_provenance` is min or max where the result's metadata is to tell of it too.
    `resources` are limits of RUN steps by the frontend's names (memory, memswap, cpushares,
    cpuperiod, cpuquota, cpusetcpus, cpusetmems), `cgroup_parent` the control group that theirs are
    children of. `arch_check` is off, warn or error, for files that are not for the platform they are
    built for (see `engine.truthcheck`); `arch_check_allow` are patterns of paths, as in a .dockerignore
    file, that are meant to be so. With `keep_going` the failure of a platform ends the work on no other;
    those of `optional`, or all that are not in `require` where that is given, may fail and are then left
    out of the result (see `engine.policy`). `parallel` are texts like `exec=4,network=8,cpu=2` (see
    `worker.limits`). With `no_emulation` a step that would have to be emulated is an error before any work;
    with `accelerate` (see `engine.accelerate`) emulated steps run native twins where the result is the
    same (see `worker.accelerate`); `emulators` is the directory of the QEMU programs to use, empty for
    those of the machine. `root` is the store's directory (None: the usual place).
    With `stage_platform` the platform of a FROM that names a stage counts: that stage is made again for it.
    With `proxy_network` steps have the network through a proxy of the build only, which writes down what
    they fetch. `tests` are commands (a JSON array, else a line for the shell) that must succeed in the image
    of a platform before it leaves.
    `lock` is the path of a lock file, which says what images names stand for; `offline` opens no socket.
    `repository` and `ref` are for the record that a daemon keeps of the build: the git repository that the
    context is in, and the record's name (empty: one is made up).
    """

    context: str = "."
    context_tar: BinaryIO | None = None
    dockerfile: str | None = None
    dockerfile_data: bytes | None = None
    build_contexts: dict[str, str] = {}
    platforms: tuple[str, ...] = ()
    multi_platform: bool = False
    target: str = ""
    build_args: dict[str, str] = {}
    labels: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    network: str = "default"
    proxy_network: bool = False
    add_hosts: tuple[tuple[str, str], ...] = ()  # (host name, IP address)
    shm_size: int | None = None  # bytes
    ulimits: tuple[Ulimit, ...] = ()
    resources: dict[str, str] = {}
    cgroup_parent: str = ""
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[Ssh, ...] = ()
    allow: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    attests: dict[str, dict[str, str]] = {}
    default_provenance: bool = False
    metadata_provenance: str = ""
    cache_from: tuple[CacheOption, ...] = ()
    cache_to: tuple[CacheOption, ...] = ()
    call: str = "build"
    no_emulation: bool = False
    tests: tuple[str, ...] = ()
    lock: str = ""
    offline: bool = False
    stage_platform: bool = False
    emulators: str = ""
    keep_going: bool = False
    require: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    parallel: tuple[str, ...] = ()
    accelerate: str = "off"
    arch_check: str = "warn"
    arch_check_allow: tuple[str, ...] = ()
    repository: Repository | None = None
    ref: str = ""
    root: str | None = None


class PlatformResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was made for one platform: the digest of its manifest and of its config, and the sum of its
    layers' sizes (bytes, compressed; 0 when no image was made). `route` is native, emulated or empty
    (nothing had to run). `error` says why an optional platform was left out."""

    platform: str
    digest: str = ""
    config_digest: str = ""
    size: int = 0
    route: str = ""
    error: str = ""


class BuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a build gave.

    `digest` is that of the index (several platforms) or the manifest (one), None when no image was made;
    `config_digest` that of the config when there is exactly one manifest; `descriptor` the OCI descriptor
    of `digest` as JSON values. `image_names` are normalised references. `metadata` holds further keys for
    `--metadata-file` (JSON values), such as those of the exporters. `warnings` is how many warnings the
    build gave. `emulated_s` are the seconds that steps of this build ran emulated, all added up;
    `movable_stages` the stages among them that need not be (see `engine.advice`).
    """

    digest: str | None = None
    config_digest: str | None = None
    descriptor: dict[str, Any] | None = None
    image_names: tuple[str, ...] = ()
    platforms: tuple[PlatformResult, ...] = ()
    metadata: dict[str, Any] = {}
    warnings: int = 0
    emulated_s: float = 0.0
    movable_stages: tuple[str, ...] = ()

    @property
    def image_id(self) -> str | None:
        """What `--iidfile` and `--quiet` give: the config digest of a single image, else the index digest."""
        return self.config_digest or self.digest


class Volume(msgspec.Struct, frozen=True):
    """A directory or file of the machine shown to a running program."""

    source: str
    dest: str
    readonly: bool = False


class Port(msgspec.Struct, frozen=True):
    """A port of the machine (on `address`, empty for all) that leads to a port of a running program."""

    host: int
    container: int
    address: str = ""


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Run a program of an image.

    `image` is a registry reference, `oci-layout://PATH[:TAG][@DIGEST]`, the path of an OCI layout
    (directory or tar), or the name of an image in the store. `command` is put in the place of the image's
    CMD, `entrypoint` of its ENTRYPOINT (an empty text clears it). `pull` is missing, always or never. `env`
    are complete `K=V` texts in which the caller has looked up names without a value. With `interactive` the
    program gets the caller's standard input, else an empty one; with `tty` a terminal of its own. `add_hosts`
    are (name, address), `tmpfs` (path, bytes; 0 for the kernel's default), `memory` bytes and
    `cpu_quota` microseconds in a tenth of a second (0: no limit). With `readonly` the image's files cannot
    be written.
    """

    image: str
    command: tuple[str, ...] = ()
    platform: str | None = None
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    entrypoint: str | None = None
    interactive: bool = False
    tty: bool = False
    network: str = "host"
    volumes: tuple[Volume, ...] = ()
    emulators: str = ""
    pull: str = "missing"
    hostname: str = ""
    add_hosts: tuple[tuple[str, str], ...] = ()
    readonly: bool = False
    tmpfs: tuple[tuple[str, int], ...] = ()
    shm_size: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    memory: int = 0
    cpu_quota: int = 0
    ports: tuple[Port, ...] = ()
    root: str | None = None


class CancelToken:
    """Says once, from any thread or a signal handler, that work is to stop.

    `set` may be called several times; every callback is called once, in the thread that sets (or at once
    when the token is set already), so it has to be short and safe there, such as
    `loop.call_soon_threadsafe`.
    """

    __slots__ = ("_callbacks", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._callbacks: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._drain()

    def add_callback(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)
        if self._is_set:
            self._drain()

    def _drain(self) -> None:
        # list.pop is atomic, so each callback runs once whoever gets here first, and a signal handler that
        # interrupts another caller cannot deadlock as it would with a lock.
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:
                return
            callback()
