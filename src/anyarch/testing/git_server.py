"""Git repositories served over HTTP on loopback, by git's own `http-backend`, for tests.

Repositories are written with `commit`; requests are recorded, and a token can be asked for.
"""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = ["GitServer", "git"]

_TIME = "1700000000 +0000"


def git(directory: Path, *arguments: str, **variables: str) -> str:
    """Run git in `directory`, away from this machine's settings; its output without the last newline."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.com",
        "GIT_COMMITTER_NAME": "C",
        "GIT_COMMITTER_EMAIL": "c@example.com",
        "GIT_AUTHOR_DATE": _TIME,
        "GIT_COMMITTER_DATE": _TIME,
        **variables,
    }
    argv = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(argv, cwd=directory, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout.rstrip("\n")


class GitServer:
    """Serves `root/NAME.git`. Use as a context manager.

    `token` is asked for as a password of any user when set. `requests` are the paths that were asked for.
    With `is_old` it speaks the first protocol, in which only what refs lead to directly can be had.
    """

    def __init__(self, root: Path, *, token: str = "", is_old: bool = False) -> None:
        self.root = root
        self.token = token
        self.is_old = is_old
        self.requests: list[str] = []
        root.mkdir(parents=True, exist_ok=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> GitServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, name: str) -> str:
        return f"http://{self.address}/{name}.git"

    def work_tree(self, name: str) -> Path:
        """A clone of repository `name` to commit in; both are made at the first call."""
        tree = self.root / "trees" / name
        if not tree.exists():
            bare = self.root / f"{name}.git"
            bare.parent.mkdir(parents=True, exist_ok=True)
            git(self.root, "init", "--quiet", "--bare", str(bare))
            git(self.root, "clone", "--quiet", str(bare), str(tree))
        return tree

    def commit(
        self,
        name: str,
        files: Mapping[str, str | bytes | None],
        *,
        branch: str = "main",
        tag: str = "",
        time: str = _TIME,
    ) -> str:
        """Write (None: remove) files on a branch, commit and push; the commit's id. `tag` is annotated."""
        tree = self.work_tree(name)
        if git(tree, "branch", "--list", branch):
            git(tree, "checkout", "--quiet", branch)
        else:
            git(tree, "checkout", "--quiet", "-b", branch)
        for path, content in files.items():
            place = tree / path
            if content is None:
                place.unlink()
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.encode() if isinstance(content, str) else content)
        git(tree, "add", "--all", "--force")
        git(tree, "commit", "--quiet", "--allow-empty", "-m", "change", GIT_COMMITTER_DATE=time)
        if tag:
            git(tree, "tag", "-a", "-m", tag, tag)
        git(tree, "push", "--quiet", "--tags", "origin", branch)
        return git(tree, "rev-parse", "HEAD")


def _handler(server: GitServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
                self._answer(b"".join(iter(self._chunk, b"")))
            else:
                self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def _chunk(self) -> bytes:
            data = self.rfile.read(int(self.rfile.readline(), 16))
            self.rfile.readline()
            return data

        def _answer(self, body: bytes) -> None:
            server.requests.append(self.path)
            if server.token and not self._is_known():
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            env = {
                "PATH": os.environ["PATH"],
                "HOME": os.devnull,
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_PROJECT_ROOT": str(server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                "GIT_PROTOCOL": "" if server.is_old else self.headers.get("Git-Protocol") or "",
            }
            argv = ["git", "http-backend"]
            done = subprocess.run(argv, env=env, input=body, capture_output=True, check=False)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = [line.partition(": ")[::2] for line in head.decode().split("\r\n") if line]
            status = next((value for name, value in fields if name == "Status"), "200 OK")
            self.send_response(int(status.split()[0]))
            for name, value in fields:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _is_known(self) -> bool:
            kind, _, text = (self.headers.get("Authorization") or "").partition(" ")
            return kind.lower() == "basic" and base64.b64decode(text).endswith(b":" + server.token.encode())

        def log_message(self, *_: object) -> None:
            """Tests read `requests`."""

    return Handler
