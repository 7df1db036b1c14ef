"""Message classes, made without protobuf's implementation in Python where that in C is in use."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import sys
from google.protobuf.message import Message
from anyarch.api.proto import control_pb2 as control, health_pb2 as health, llb_pb2 as llb
from anyarch.api.proto import wellknown_pb2 as wellknown

request = control.SolveRequest(Ref="r", FrontendAttrs={"a": "b"})
request.Exporters.add(Type="image", Attrs={"name": "x"})
request.ExporterAttrsDeprecated["k"] = "v"
request.FrontendInputs["in"].CopyFrom(llb.Definition(**{"def": [b"op"]}))
vertex = control.Vertex(name="v", started=wellknown.Timestamp(seconds=5, nanos=7))
healthy = health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING)
assert isinstance(request, Message)
assert health.HealthCheckResponse.ServingStatus.Name(healthy.status) == "SERVING"
assert vertex.started.ToNanoseconds() == 5_000_000_007
parts = [message.SerializeToString(deterministic=True) for message in (request, vertex, healthy)]
given = [bytes.fromhex(text) for text in sys.argv[1:]]
if given:
    assert [kind.FromString(raw) for kind, raw in zip((control.SolveRequest, control.Vertex,
            health.HealthCheckResponse), given)] == [request, vertex, healthy]
print(*(part.hex() for part in parts))
print(*sys.modules)
"""


def run(implementation: str, *arguments: str) -> tuple[list[str], set[str]]:
    env = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    messages, modules = done.stdout.splitlines()
    return messages.split(), set(modules.split())


def test_every_implementation_of_protobuf_reads_what_the_other_writes() -> None:
    theirs, _ = run("python")
    ours, _ = run("upb", *theirs)
    again, _ = run("python", *ours)
    assert again == ours == theirs


def test_with_the_one_in_c_that_in_python_is_not_loaded() -> None:
    _, modules = run("upb")
    assert "google._upb._message" in modules
    assert not modules & {
        "google.protobuf.descriptor_pool",
        "google.protobuf.internal.builder",
        "google.protobuf.internal.python_message",
        "google.protobuf.text_format",
    }
