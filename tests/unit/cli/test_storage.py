"""`du`, `prune` and `store check`, on a small real store."""

from __future__ import annotations

import io
import json

import pytest

from anyarch.archive.entry import Entry, Kind
from anyarch.cli.units import ago, human_size
from anyarch.snapshot.layers import open_layers
from anyarch.store.store import Store


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYARCH_ROOT", str(tmp_path / "store"))
    with Store.open(tmp_path / "store") as store:
        for name in ("first", "second"):
            with open_layers(store).new_tar(description=f"RUN {name}") as layer:
                layer.add(Entry(name, Kind.FILE, 0o644, size=5), io.BytesIO(b"hello"))
                layer.commit()
    return tmp_path / "store"


def ids(root):
    with Store.open(root) as store:
        return store.records.ids()


def test_du_lists_and_sums(cli, root):
    status, out, _ = cli("du")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["ID", "RECLAIMABLE", "SIZE", "LAST", "ACCESSED"]
    assert [line.split()[0] for line in lines[1:3]] == sorted(ids(root))
    assert lines[3].startswith("Reclaimable:")
    assert lines[4].startswith("Total:")


def test_du_gives_buildx_keys_as_json(cli, root):
    records = [json.loads(line) for line in cli("du", "--format", "json").out.splitlines()]
    assert {record["Description"] for record in records} == {"RUN first", "RUN second"}
    assert records[0]["Type"] == "regular"
    assert records[0]["Reclaimable"] is True


def test_du_verbose_shows_what_passes_a_filter_and_no_sums(cli, root):
    out = cli("du", "--verbose", "--filter", "description~=second").out
    assert "RUN second" in out
    assert "RUN first" not in out
    assert "Total:" not in out


def test_du_prints_by_a_template(cli, root):
    out = cli("du", "--format", "{{.Type}} {{.Description}} {{json .Shared}}").out
    assert sorted(out.splitlines()) == ["regular RUN first false", "regular RUN second false"]
    out = cli("du", "--format", r"table {{.Type}}\t{{.Description}}").out
    assert sorted(out.splitlines()) == [
        "TYPE      DESCRIPTION",
        "regular   RUN first",
        "regular   RUN second",
    ]
    status, _, err = cli("du", "--format", "{{.ID")
    assert status == 1
    assert "unclosed action" in err


def test_prune_asks_and_takes_no_answer_for_no(cli, root):
    status, out, _ = cli("prune")
    assert status == 0
    assert out.startswith("WARNING! This will remove all dangling build cache.")
    assert len(ids(root)) == 2


def test_prune_prints_what_went_and_the_sum(cli, root):
    status, out, _ = cli("prune", "-f", "--filter", "description=RUN first")
    assert status == 0
    assert len(out.splitlines()) == 3
    assert out.splitlines()[-1].startswith("Total:")
    assert len(ids(root)) == 1
    assert "Total:        0B" in cli("prune", "-f", "--filter", "until=1h").out
    assert "Total:        0B" in cli("prune", "-f", "--max-used-space", "1GB").out
    assert len(ids(root)) == 1
    cli("prune", "-af")
    assert ids(root) == []


@pytest.mark.parametrize(
    "argv",
    [
        ("prune", "-f", "--filter", "colour=red"),
        ("prune", "-f", "--reserved-space", "much"),
        ("prune", "-f", "--filter", "until=soon"),
        ("prune", "-f", "--filter", "until=1h", "--filter", "unused-for=2h"),
        ("du", "--verbose", "--format", "json"),
        ("du", "--format", "{{.ID"),
    ],
)
def test_what_makes_no_sense_is_refused(cli, root, argv):
    assert cli(*argv).status == 1
    assert len(ids(root)) == 2


def test_store_check_finds_a_changed_layer(cli, root):
    assert cli("store", "check") == (0, "the store is whole\n", "")
    layer = ids(root)[0]
    path = root / "layers" / layer.replace(":", "-") / "tar"
    path.write_bytes(path.read_bytes().replace(b"hello", b"HELLO"))
    status, out, err = cli("store", "check")
    assert status == 1
    assert layer in out
    assert "1 problem;" in err


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (12345, "12.35kB"), (5e9, "5GB")]
)
def test_sizes_are_printed_as_docker_does(size, text):
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second ago"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (60, "About a minute ago"),
        (600, "10 minutes ago"),
        (3600, "About an hour ago"),
        (7200, "2 hours ago"),
        (86400 * 3, "3 days ago"),
        (86400 * 30, "4 weeks ago"),
        (86400 * 100, "3 months ago"),
        (86400 * 1000, "2 years ago"),
    ],
)
def test_ages_are_printed_as_docker_does(seconds, text):
    assert ago(1e9, now=1e9 + seconds) == text
