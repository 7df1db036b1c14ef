"""The program `anyarchd`: from the command line to listening sockets, and to an orderly end.

Exit status: 0 after SIGTERM or SIGINT; 1 for what cannot be started, with one line that says why.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.errors import AnyarchError

if TYPE_CHECKING:
    from anyarch.api.rpc.socket import SocketLink
    from anyarch.daemon.listen import Listener
    from anyarch.daemon.settings import Settings

__all__ = ["main", "serve"]

_GRACE_S = 10.0
"""How long running builds may take to stop after a signal."""
_BACKLOG = 4096
"""Clients that connect at the same time; the system has a bound of its own (net.core.somaxconn)."""


def main(arguments: list[str] | None = None) -> int:
    from anyarch.daemon.arenas import few_arenas
    from anyarch.daemon.claim import claimed
    from anyarch.daemon.flags import parse_flags, usage
    from anyarch.daemon.listen import listen
    from anyarch.daemon.settings import settings_of
    from anyarch.sandbox.openfiles import raise_limit

    try:
        flags = parse_flags(sys.argv[1:] if arguments is None else arguments)
        if flags.get("help"):
            print(usage())
            return 0
        if flags.get("version"):
            from anyarch.daemon.records import VERSION
            from anyarch.version import __version__

            # Four words, the third the version: so the docker-container driver reads it.
            print("anyarchd", "anyarch", VERSION, __version__)
            return 0
        settings = settings_of(flags)
        # From the first socket on: `serve` takes the signals over when the loop runs.
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(ValueError):
                signal.signal(number, _stop)
        raise_limit()
        few_arenas()
        with claimed(settings.root):
            listeners = listen(settings)
            try:
                asyncio.run(serve(settings, listeners))
            finally:
                for listener in listeners:
                    listener.close()
    except AnyarchError as error:
        print(f"anyarchd: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 1
    return 0


def _stop(number: int, frame: object) -> None:
    """A signal before there is anything to end."""
    raise SystemExit(0)


async def serve(settings: Settings, listeners: list[Listener], stop: asyncio.Event | None = None) -> None:
    """Answer clients until a signal (or `stop`) ends it; then no new calls are taken, and those that run are
    cancelled. Raises `AnyarchError` for what cannot be started."""
    import ssl

    from anyarch.api.rpc.server import Server
    from anyarch.api.rpc.socket import on_accept
    from anyarch.daemon.collector import Collector
    from anyarch.daemon.content import content_methods
    from anyarch.daemon.control import Control
    from anyarch.daemon.failure import translate
    from anyarch.daemon.health import health_methods
    from anyarch.daemon.history import History
    from anyarch.daemon.job import Jobs
    from anyarch.daemon.listen import tls_context
    from anyarch.daemon.log import Log
    from anyarch.daemon.platforms import Platforms
    from anyarch.daemon.records import worker_id
    from anyarch.daemon.traces import trace_methods
    from anyarch.sandbox.net.networks import open_networks
    from anyarch.session.lender import Sessions
    from anyarch.store.store import default_root

    log = Log(debug=settings.debug, as_json=settings.log_json)
    loop = asyncio.get_running_loop()
    stop = stop or asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError, RuntimeError):  # in a thread: then `stop` is the way
            loop.add_signal_handler(number, stop.set)
    if settings.debug:
        from anyarch.daemon.stacks import stacks

        def dump() -> None:
            log.debug(stacks([loop, *(job.bench_loop for job in jobs.running if job.bench_loop is not None)]))

        with suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGUSR1, dump)
    root = Path(settings.root) if settings.root else default_root()
    platforms, sessions = Platforms(settings.platforms), Sessions()
    networks = await asyncio.to_thread(open_networks, settings.networks, root, log.warn)
    jobs = Jobs(exec_limit=settings.limits.exec if settings.limits is not None else None, networks=networks)
    kept = settings.history
    history = History(root, entries=kept.entries, age_s=kept.age_s)
    for note in settings.notes:
        log.warn(note)
    collector = Collector(root, settings.gc_rules, log)
    control = Control(
        settings, worker_id(root), platforms, jobs, sessions, root, log, history, on_growth=collector.wake
    )
    methods = {**control.methods(), **control.gateway.methods(), **health_methods(), **trace_methods()}
    methods.update(content_methods(root, history))
    context = tls_context(settings.tls) if settings.tls is not None else None
    links: set[SocketLink] = set()
    ending = AsyncExitStack()
    ending.push_async_callback(asyncio.to_thread, networks.close)  # when no step runs any more
    async with (
        ending,
        Server(methods, translate=translate, on_fault=log.error) as server,
        asyncio.TaskGroup() as group,
    ):
        collecting = group.create_task(collector.run()) if settings.gc else None
        servers = []
        for listener in listeners:
            secure = context if listener.secure else None
            accept = on_accept(server, links)
            if listener.sock.family.name == "AF_UNIX":
                servers.append(await loop.create_unix_server(accept, sock=listener.sock, backlog=_BACKLOG))
            else:
                if secure is None:
                    log.warn(f"TLS is not enabled for {listener.address}: mutual TLS is highly recommended")
                elif secure.verify_mode != ssl.CERT_REQUIRED:
                    log.warn(f"clients of {listener.address} need no certificate: anybody can build")
                servers.append(
                    await loop.create_server(accept, sock=listener.sock, ssl=secure, backlog=_BACKLOG)
                )
            log.info(f"running server on {listener.address}")
        await stop.wait()
        log.info("stopping server")
        for listening in servers:
            listening.close()
        for link in list(links):
            link.link.connection.go_away()
        if collecting is not None:
            collecting.cancel()
    for link in list(links):
        link.close()
    await asyncio.sleep(0)
