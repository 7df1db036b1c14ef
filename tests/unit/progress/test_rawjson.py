from __future__ import annotations

import io
import json

import pytest

from anyarch.progress.rawjson import RawJSONRenderer, as_json_values, rfc3339
from anyarch.progress.trace import Trace
from anyarch.solver.events import StatusEvent, VertexEvent, WarningEvent
from anyarch.spec.digest import Digest
from tests.unit.progress.events import T0, begun, said


def test_each_event_is_one_line_of_json():
    stream = io.StringIO()
    events = [begun("sha256:a", "A"), said("sha256:a", b"x\ny", 1)]
    RawJSONRenderer(stream).update(Trace(), [(event, []) for event in events], T0)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first == {"vertexes": [{"digest": "sha256:a", "name": "A", "started": "2023-11-14T22:13:20Z"}]}
    assert second == {
        "logs": [{"vertex": "sha256:a", "stream": 1, "data": "eAp5", "timestamp": "2023-11-14T22:13:21Z"}]
    }


def test_a_vertex_has_its_inputs_and_its_end():
    event = VertexEvent("d", "n", ("i",), T0, T0 + 0.25, cached=True, error="e")
    assert as_json_values(event)["vertexes"][0] == {
        "digest": "d",
        "inputs": ("i",),
        "name": "n",
        "started": "2023-11-14T22:13:20Z",
        "completed": "2023-11-14T22:13:20.25Z",
        "cached": True,
        "error": "e",
    }


def test_a_status_always_says_how_far_it_is():
    values = as_json_values(StatusEvent("v", "transferring", timestamp=T0))["statuses"][0]
    assert values == {"id": "transferring", "vertex": "v", "current": 0, "timestamp": "2023-11-14T22:13:20Z"}


def test_a_warning_carries_its_lines():
    event = WarningEvent("v", "short", ("d",), "https://u", 1, "Dockerfile", b"FROM x", ((2, 3),))
    assert as_json_values(event)["warnings"][0] == {
        "vertex": "v",
        "level": 1,
        "short": "c2hvcnQ=",
        "detail": ["ZA=="],
        "url": "https://u",
        "sourceInfo": {"filename": "Dockerfile", "data": "RlJPTSB4"},
        "range": [{"start": {"line": 2}, "end": {"line": 3}}],
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1.5, "1970-01-01T00:00:01.5Z"),
        (1_700_000_000.000001, "2023-11-14T22:13:20.000001Z"),
    ],
)
def test_times_are_rfc_3339_in_utc(seconds, text):
    assert rfc3339(seconds) == text


def test_digests_of_the_engine_are_written_as_texts():
    digest = Digest.of(b"v")
    stream = io.StringIO()
    RawJSONRenderer(stream).update(Trace(), [(begun(digest, "A"), []), (said(digest, b"x", 1), [])], T0)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["vertexes"][0]["digest"] == second["logs"][0]["vertex"] == str(digest)
