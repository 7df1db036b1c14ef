"""The network of a build's steps: which one each gets, and the files that tell it of it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from anyarch.llb.ops import NetMode
from anyarch.solver.events import LogEvent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from anyarch.http.intercept.server import StepProxy
    from anyarch.llb.ops import HostIP
    from anyarch.sandbox.net.dns import Dns
    from anyarch.sandbox.net.networks import StepNetworks
    from anyarch.sandbox.net.pool import Lease
    from anyarch.sandbox.plan import FileMount
    from anyarch.solver.events import EventSink
    from anyarch.worker.proxied import BuildProxy
    from anyarch.worker.worker import Machine

__all__ = ["Entered", "Network", "network_files"]

_HOST_LOOPBACK = "127.0.0.1"
"""What `host-gateway` stands for in a definition."""


class Entered:
    """What one step gets: `kind` and `namespace` are those of `ExecRequest`. `proxy` is to be started with
    the step's listener."""

    def __init__(self, kind: str, lease: Lease | None = None, proxy: StepProxy | None = None) -> None:
        self.kind = kind
        self.lease = lease
        self.proxy = proxy

    @property
    def namespace(self) -> int | None:
        return self.lease.namespace if self.lease is not None and self.proxy is None else None


class Network:
    """Of one build. `networks` are those of its daemon, `dns` what that says of name servers."""

    def __init__(
        self, machine: Machine, emit: EventSink, networks: StepNetworks | None = None, dns: Dns | None = None
    ) -> None:
        self._machine = machine
        self._emit = emit
        self._networks = networks
        self._dns = dns
        self.proxy: BuildProxy | None = None
        """What all steps that have a network go through, if anything."""
        self._lock = threading.Lock()
        self._told = False

    def is_proxied(self, mode: NetMode) -> bool:
        """Whether a step of that mode has a network, and has it through a proxy."""
        if self.proxy is None or mode is NetMode.NONE:
            return False
        return mode is NetMode.HOST or self._networks is None or self._networks.kind != "none"

    def enter(
        self,
        mode: NetMode,
        extra_hosts: Sequence[HostIP],
        hostname: str,
        vertex: str,
        stack: ExitStack,
        *,
        is_insecure: bool = False,
    ) -> Entered:
        """For a step about to run, until `stack` ends. An ordinary user's steps have a network of their own
        where one can be had; why not is told once a build. Blocking. Raises `SandboxError`."""
        if mode is NetMode.NONE:
            return Entered("none")
        networks = self._networks
        if mode is not NetMode.HOST and networks is not None and networks.kind == "none":
            return Entered("none")
        if self.proxy is not None and self.is_proxied(mode):
            return self._proxied(self.proxy, mode, extra_hosts, stack)
        if mode is NetMode.HOST:
            return Entered("host")
        if networks is not None and networks.pool is not None:
            lease = stack.enter_context(networks.pool.lease(hostname))
            lease.is_altered = is_insecure
            return Entered("own", lease)
        return Entered(self._of_user(extra_hosts, vertex))

    def _proxied(
        self, proxy: BuildProxy, mode: NetMode, extra_hosts: Sequence[HostIP], stack: ExitStack
    ) -> Entered:
        """The proxy goes out by the network that the step would have had."""
        from anyarch.http.intercept.egress import Reach

        hosts = {host.host: host.ip for host in extra_hosts}
        networks = self._networks
        if mode is NetMode.HOST:
            return Entered("proxy", proxy=_ending(proxy.step(Reach.ALL, hosts), stack))
        if networks is not None and networks.pool is not None:
            from anyarch.sandbox.net.namespace import make_socket

            lease = stack.enter_context(networks.pool.lease())
            namespace = lease.namespace
            step = proxy.step(Reach.WORLD, hosts, lambda family: make_socket(namespace, family))
            return Entered("proxy", lease, _ending(step, stack))
        # Steps of a daemon on the machine's network reach its loopback, as BuildKit's do.
        has_loopback = networks is not None and self._machine.is_root
        reach = Reach.MACHINE if has_loopback else Reach.WORLD
        return Entered("proxy", proxy=_ending(proxy.step(reach, hosts), stack))

    def files(self, kind: str, extra_hosts: Sequence[HostIP], hostname: str) -> tuple[FileMount, ...]:
        """/etc/hosts and /etc/resolv.conf of a step with that kind of network."""
        return network_files(kind, extra_hosts, hostname, self._dns)

    def _of_user(self, extra_hosts: Sequence[HostIP], vertex: str) -> str:
        if self._machine.is_root:
            return "host"
        if any(host.ip == _HOST_LOOPBACK for host in extra_hosts):
            refusal = "a name stands for the machine itself (--add-host)"
        else:
            refusal = self._machine.executor().own_network()
        if not refusal:
            return "own"
        with self._lock:
            told, self._told = self._told, True
        if not told:
            text = f"note: steps share the machine's network: {refusal}\n"
            self._emit(LogEvent(vertex, 2, text.encode(), time.time()))
        return "host"


def _ending(proxy: StepProxy, stack: ExitStack) -> StepProxy:
    stack.callback(proxy.close)
    return proxy


def network_files(
    kind: str, extra_hosts: Sequence[HostIP], hostname: str, dns: Dns | None = None
) -> tuple[FileMount, ...]:
    """/etc/hosts and /etc/resolv.conf of a process whose network is `host`, `own`, `proxy` or `none`."""
    from anyarch.sandbox.net.dns import resolv_conf
    from anyarch.sandbox.plan import DEFAULT_HOSTNAME, FileMount

    name = hostname or DEFAULT_HOSTNAME
    hosts = f"127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    hosts += "".join(f"{host.ip}\t{host.host}\n" for host in extra_hosts)
    files = [FileMount("/etc/hosts", hosts.encode(), readonly=False)]
    if kind != "none":
        files.append(FileMount("/etc/resolv.conf", resolv_conf(dns, is_own=kind != "host"), readonly=False))
    return tuple(files)
