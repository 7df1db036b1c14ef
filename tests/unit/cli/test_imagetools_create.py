from __future__ import annotations

import json

import pytest

from anyarch.testing.registry import FakeRegistry


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with FakeRegistry() as registry:
        yield registry


def test_two_images_become_one_name(cli, fake, tmp_path):
    for architecture in ("amd64", "arm64"):
        fake.add_image("lib/app", architecture, [b"x"], architecture=architecture)
    app = f"{fake.address}/lib/app"
    metadata = tmp_path / "metadata.json"
    answer = cli(
        *("imagetools", "create", "-t", f"{app}:1", f"{app}:amd64", f"{app}:arm64"),
        *("--metadata-file", str(metadata), "--progress", "plain", "--annotation", "index:a=b"),
    )
    assert answer.status == 0, answer.err
    assert f"pushing {app}" in answer.err
    made = json.loads(metadata.read_text())
    assert made["containerimage.descriptor"]["digest"] == fake.tags["lib/app", "1"]
    assert made["image.name"] == app


def test_a_dry_run_prints_the_index_and_pushes_nothing(cli, fake):
    image = fake.add_image("lib/app", "one", [b"x"])
    answer = cli("imagetools", "create", "--dry-run", f"{fake.address}/lib/app:one")
    assert json.loads(answer.out)["manifests"][0]["digest"] == image.digest
    assert fake.count("PUT") == 0
    again = cli(
        *("imagetools", "create", "--dry-run", "--prefer-index=false", "-p", "linux/amd64"),
        f"{fake.address}/lib/app:one",
    )
    assert again.out.encode() == image.raw + b"\n"


def test_sources_come_from_files_too(cli, fake, tmp_path):
    image = fake.add_image("lib/app", "one", [b"x"])
    path = tmp_path / "descriptor.json"
    path.write_text(json.dumps({"digest": image.digest}))
    answer = cli("imagetools", "create", "-f", str(path), "-t", f"{fake.address}/lib/app:1")
    assert answer.status == 0, answer.err
    missing = cli("imagetools", "create", "-f", "nowhere", "-t", f"{fake.address}/lib/app:1")
    assert "open nowhere: no such file" in missing.err


def test_waiting_for_a_registry_is_told(cli, fake):
    fake.add_image("lib/app", "one", [b"x"])
    fake.fault("GET", "/manifests/", status=429, headers={"Retry-After": "0"})
    answer = cli(
        *("imagetools", "create", "--progress", "plain", "-t", f"{fake.address}/lib/app:1"),
        f"{fake.address}/lib/app:one",
    )
    assert answer.status == 0, answer.err
    assert "429 Too Many Requests; trying again in" in answer.err
