"""Which Kubernetes cluster, as whom: a kubeconfig file (kubernetes.io, "Organizing Cluster Access Using
kubeconfig Files"), else what a pod finds of its own cluster."""

from __future__ import annotations

import atexit
import base64
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from anyarch.builder.docker_config import TlsFiles
from anyarch.builder.stream import connect_socket, tls_context
from anyarch.errors import BuilderError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ssl import SSLContext

    from anyarch.builder.stream import ByteStream

__all__ = ["Cluster", "find_cluster"]

_POD_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"
_PLUGIN_TIMEOUT_S = 60


class Cluster:
    """An API server, how to reach it, and the namespace that is meant. `token` goes with every call."""

    def __init__(
        self,
        server: str,
        *,
        namespace: str = "default",
        token: str = "",
        tls: TlsFiles | None = None,
        basic: str = "",
        server_name: str = "",
    ) -> None:
        self.server = server
        self.namespace = namespace
        self._token = token
        self._basic = basic
        self._tls = tls
        self._server_name = server_name

    @property
    def path(self) -> str:
        """What all paths begin with, for servers behind a proxy."""
        return urlsplit(self.server).path.rstrip("/")

    def headers(self) -> dict[str, str]:
        found = {"Host": urlsplit(self.server).netloc, "Accept": "application/json"}
        if self._token:
            found["Authorization"] = f"Bearer {self._token}"
        elif self._basic:
            found["Authorization"] = f"Basic {self._basic}"
        return found

    async def connect(self, timeout_s: float) -> ByteStream:
        """Raises `NodeLost` and `BuilderError`."""
        split = urlsplit(self.server)
        label = f"cannot connect to the Kubernetes API at {self.server}"
        context: SSLContext | None = None
        if split.scheme == "https":
            context = tls_context(self._tls or TlsFiles())
        elif split.scheme != "http" or not split.hostname:
            raise BuilderError(f"{label}: not an address")
        port = split.port or (443 if context else 80)
        return await connect_socket(
            label,
            host=split.hostname or "",
            port=port,
            tls=context,
            name=self._server_name,
            timeout_s=timeout_s,
        )


def find_cluster(path: str, env: Mapping[str, str]) -> Cluster:
    """The cluster of the kubeconfig file(s) at `path` (default: `~/.kube/config`), else that of the pod we
    are in. Raises `BuilderError`."""
    home = env.get("HOME") or os.path.expanduser("~")
    paths = [item for item in (path or env.get("KUBECONFIG", "")).split(os.pathsep) if item]
    document = _merged(paths or [os.path.join(home, ".kube", "config")])
    if document.get("current-context"):
        return _of_document(document, env)
    if os.path.exists(f"{_POD_DIRECTORY}/token") and env.get("KUBERNETES_SERVICE_HOST"):
        return _of_pod(env)
    raise BuilderError(
        "cannot determine Kubernetes namespace, specify manually: no configuration has been provided",
        hint="KUBECONFIG names the configuration file; its current-context says which cluster",
    )


def _merged(paths: list[str]) -> dict[str, Any]:
    """Several files are one: what comes first counts."""
    merged: dict[str, Any] = {}
    for path in paths:
        document = _read(path)
        directory = os.path.dirname(os.path.abspath(path))
        for key in ("clusters", "contexts", "users"):
            for item in document.get(key) or ():
                if isinstance(item, dict):
                    item["_directory"] = directory
                    merged.setdefault(key, []).append(item)
        if document.get("current-context"):
            merged.setdefault("current-context", document["current-context"])
    return merged


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BuilderError(f"{path}: {error.strerror}") from None
    try:
        found = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        found = _yaml(path, raw)
    return found if isinstance(found, dict) else {}


def _yaml(path: str, raw: bytes) -> Any:
    try:
        import yaml
    except ImportError:
        raise BuilderError(
            f"{path} is YAML, which needs the package PyYAML",
            hint="install anyarch[yaml], or write the file as JSON: kubectl config view --raw -o json",
        ) from None
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise BuilderError(f"{path}: {error}") from None


def _named(document: dict[str, Any], key: str, name: str, inner: str) -> tuple[dict[str, Any], str]:
    for item in document.get(key) or ():
        if item.get("name") == name:
            return dict(item.get(inner) or {}), item["_directory"]
    raise BuilderError(f'kubeconfig: there is no {inner} "{name}"')


def _of_document(document: dict[str, Any], env: Mapping[str, str]) -> Cluster:
    context, _ = _named(document, "contexts", str(document["current-context"]), "context")
    cluster, cluster_directory = _named(document, "clusters", str(context.get("cluster")), "cluster")
    user: dict[str, Any] = {}
    user_directory = ""
    if context.get("user"):
        user, user_directory = _named(document, "users", str(context["user"]), "user")
    if user.get("exec"):
        user |= _plugin(user["exec"], env)
    if user.get("auth-provider"):
        raise BuilderError(
            "kubeconfig: auth-provider is not supported", hint="clusters give credentials by exec today"
        )
    token = str(user.get("token") or "")
    if not token and user.get("tokenFile"):
        token = _content(os.path.join(user_directory, user["tokenFile"])).decode().strip()
    basic = ""
    if user.get("username"):
        basic = base64.b64encode(f"{user['username']}:{user.get('password', '')}".encode()).decode()
    tls = TlsFiles(
        _file(cluster, "certificate-authority", cluster_directory),
        _file(user, "client-certificate", user_directory),
        _file(user, "client-key", user_directory),
        not cluster.get("insecure-skip-tls-verify"),
    )
    return Cluster(
        str(cluster.get("server") or ""),
        namespace=str(context.get("namespace") or "default"),
        token=token,
        tls=tls,
        basic=basic,
        server_name=str(cluster.get("tls-server-name") or ""),
    )


def _file(values: dict[str, Any], name: str, directory: str) -> str:
    """The path of a file that is named, or whose content is there; ssl takes certificates of clients from
    files only."""
    data = values.get(f"{name}-data")
    if data:
        try:
            raw = base64.b64decode(data)
        except ValueError:
            raise BuilderError(f"kubeconfig: {name}-data is damaged") from None
        return _kept(raw)
    path = values.get(name)
    return os.path.join(directory, path) if path else ""


_written: dict[bytes, str] = {}


def _kept(raw: bytes) -> str:
    """A private file with `raw`, until the process ends."""
    if raw not in _written:
        number, path = tempfile.mkstemp(prefix="anyarch-kube-")
        atexit.register(os.remove, path)
        with open(number, "wb") as file:
            file.write(raw)
        _written[raw] = path
    return _written[raw]


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BuilderError(f"kubeconfig: {path}: {error.strerror}") from None


def _plugin(settings: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """What a credential plugin answers (client.authentication.k8s.io ExecCredential)."""
    version = settings.get("apiVersion") or "client.authentication.k8s.io/v1"
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    own = {str(item["name"]): str(item["value"]) for item in settings.get("env") or ()}
    argv = [str(settings.get("command")), *(str(item) for item in settings.get("args") or ())]
    try:
        done = subprocess.run(
            argv,
            env={**env, **own, "KUBERNETES_EXEC_INFO": msgspec.json.encode(asked).decode()},
            capture_output=True,
            timeout=_PLUGIN_TIMEOUT_S,
            check=False,
        )
        status = msgspec.json.decode(done.stdout)["status"] if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError, KeyError, TypeError) as error:
        raise BuilderError(f"kubeconfig: {argv[0]}: {error}") from None
    if status is None:
        said = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}"
        raise BuilderError(f"kubeconfig: {argv[0]}: {said}", hint=settings.get("installHint"))
    found: dict[str, Any] = {"token": status.get("token")}
    for name, key in (("client-certificate", "clientCertificateData"), ("client-key", "clientKeyData")):
        if status.get(key):
            found[f"{name}-data"] = base64.b64encode(str(status[key]).encode()).decode()
    return found


def _of_pod(env: Mapping[str, str]) -> Cluster:
    host, port = env["KUBERNETES_SERVICE_HOST"], env.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    return Cluster(
        f"https://{host}:{port}",
        namespace=_content(f"{_POD_DIRECTORY}/namespace").decode().strip() or "default",
        token=_content(f"{_POD_DIRECTORY}/token").decode().strip(),
        tls=TlsFiles(f"{_POD_DIRECTORY}/ca.crt"),
    )
