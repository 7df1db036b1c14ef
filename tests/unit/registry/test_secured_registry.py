"""Debian's docker-registry behind TLS with a certificate of its own, and with htpasswd users; skopeo
agrees."""

from __future__ import annotations

import os
import random
import shutil
import subprocess

import pytest

from anyarch.errors import RegistryError, Unauthorized
from anyarch.registry.credentials import Credential, Credentials
from anyarch.registry.hosts import HostConfig, Hosts
from anyarch.registry.login import save
from anyarch.spec.oci import Manifest, decode
from anyarch.spec.reference import Reference
from anyarch.testing.debian_registry import DebianRegistry

from ..http.servers import make_certificate
from .conftest import pull
from .test_debian_registry import push_image

pytestmark = pytest.mark.registry

LAYER = random.Random(9).randbytes(3 << 20)
USERS = r"me:$2y$05$MXq39f4OkRAgvlISBK7gw.AvN7kLKVsPbDGt57UhKUyrdvPqoKn7i"  # me, secret


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("secured")
    certificate = make_certificate(directory)
    (directory / "users").write_text(USERS + "\n")
    with DebianRegistry(directory, tls=certificate, htpasswd=str(directory / "users")) as registry:
        yield registry, certificate[0]


@pytest.fixture
def home(tmp_path):
    return {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}


def hosts_by(form, address, certificate, directory):
    """The same trust said in each of the forms that users have."""
    if form == "anyarch":
        return Hosts({address: HostConfig(http=False, ca=(certificate,))})
    if form == "certs.d":
        place = directory / "certs.d" / address
        place.mkdir(parents=True)
        shutil.copy(certificate, place / "ca.crt")
        return Hosts({address: HostConfig(http=False)}, certificate_dirs=(str(directory / "certs.d"),))
    if form == "buildx":
        text = f'debug = true\n[registry."{address}"]\nhttp = false\nca = ["{certificate}"]\n'
        (directory / ".docker/buildx").mkdir(parents=True, exist_ok=True)
        (directory / ".docker/buildx/buildkitd.default.toml").write_text(text)
        return Hosts.load({"HOME": str(directory)})
    return Hosts({address: HostConfig(http=False, insecure=True)})


@pytest.mark.parametrize("form", ["anyarch", "certs.d", "buildx", "insecure"])
def test_an_image_goes_up_and_comes_down_by_tls_and_password(secured, connect, home, tmp_path, form):
    registry, certificate = secured
    save(registry.address, Credential("me", "secret"), home)
    client = connect(hosts_by(form, registry.address, certificate, tmp_path), Credentials(home))
    ref = Reference.parse(f"{registry.address}/lib/{form.replace('.', '-')}:1")
    client.check_login(registry.address)
    manifest = push_image(client, ref, LAYER)
    (layer,) = decode(Manifest, client.manifest(ref).raw).layers
    assert pull(client, ref, layer) == LAYER
    auth = tmp_path / ".docker/config.json"
    said = subprocess.run(
        ["skopeo", "inspect", "--raw", "--authfile", auth, "--tls-verify=false", f"docker://{ref}"],
        capture_output=True,
        check=True,
    )
    assert said.stdout == manifest.raw


def test_what_podman_kept_is_used(secured, connect, home, tmp_path):
    registry, certificate = secured
    auth = tmp_path / "containers/auth.json"
    auth.parent.mkdir()
    subprocess.run(
        [
            *("skopeo", "login", "--authfile", auth, "--tls-verify=false"),
            *("-u", "me", "-p", "secret", registry.address),
        ],
        capture_output=True,
        check=True,
    )
    home["XDG_RUNTIME_DIR"] = str(tmp_path)
    hosts = hosts_by("anyarch", registry.address, certificate, tmp_path)
    connect(hosts, Credentials(home)).check_login(registry.address)


def test_without_or_with_wrong_credentials_the_error_says_what_to_do(secured, connect, home, tmp_path):
    registry, certificate = secured
    hosts = hosts_by("anyarch", registry.address, certificate, tmp_path)
    with pytest.raises(Unauthorized) as caught:
        connect(hosts, Credentials(home)).check_login(registry.address)
    assert caught.value.hint is not None
    assert "log in with" in caught.value.hint
    wrong = Credentials(home, fixed={registry.address: Credential("me", "no")})
    with pytest.raises(Unauthorized):
        connect(hosts, wrong).check_login(registry.address)


def test_a_certificate_that_nobody_vouches_for_is_refused(secured, connect, home):
    registry, _ = secured
    with pytest.raises(RegistryError, match="its certificate is not trusted"):
        connect(Hosts({registry.address: HostConfig(http=False)}), Credentials(home)).check_login(
            registry.address
        )
