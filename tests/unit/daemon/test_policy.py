"""Source policies of a daemon's builds: rules in the request, and a client that is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import (
    control_pb2,
    gateway_pb2,
    llb_pb2,
    policysession_pb2,
    rpcstatus_pb2,
    sourcepolicy_pb2,
)
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import RpcError
from anyarch.llb.source import image
from tests.unit.daemon.harness import Client, ask, daemon, give_back, run, solve, tree

if TYPE_CHECKING:
    from pathlib import Path

ALPINE = "docker-image://docker.io/library/alpine:latest"
CHECK = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy"


def graph() -> llb_pb2.Definition:
    return llb_pb2.Definition.FromString(image("alpine").marshal().marshal())


def policy(action: int, *, selector: bool = True) -> sourcepolicy_pb2.Policy:
    rule = sourcepolicy_pb2.Rule(action=action)  # type: ignore[arg-type]
    if selector:
        rule.selector.identifier = ALPINE
    return sourcepolicy_pb2.Policy(rules=[rule])


def asked(client: Client, *answers: policysession_pb2.CheckPolicyResponse) -> list[Any]:
    """The questions that the client gets; it answers one after the other, the last for ever."""
    questions: list[Any] = []

    async def check(request: Any, call: Any) -> policysession_pb2.CheckPolicyResponse:
        questions.append(request)
        return answers[min(len(questions), len(answers)) - 1]

    client.more = {CHECK: unary(policysession_pb2.CheckPolicyRequest, check)}
    return questions


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (policy(1), f'source "{ALPINE}" denied by policy'),
        (policy(0, selector=False), "invalid nil selector in policy"),
        (policy(2), "missing destination for convert rule"),
        (policy(7), "unknown type"),
    ],
)
def test_no_source_is_resolved_that_rules_deny(
    tmp_path: Path, rules: sourcepolicy_pb2.Policy, says: str
) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM alpine\n")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            for ref, fields in (("a", {"Definition": graph()}), ("b", {"Frontend": "dockerfile.v0"})):
                with pytest.raises(RpcError) as caught:
                    await solve(channel, client, ref, SourcePolicy=rules, **fields)  # type: ignore[arg-type]
                assert says in caught.value.message

    run(work())


def test_rules_of_one_request_of_a_frontend_hold_for_it(tmp_path: Path) -> None:
    async def work() -> None:
        import asyncio

        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel):
            building = asyncio.ensure_future(solve(channel, client, "led"))
            for name, request, reply in (
                ("Solve", gateway_pb2.SolveRequest(Definition=graph()), gateway_pb2.SolveResponse),
                (
                    "ResolveImageConfig",
                    gateway_pb2.ResolveImageConfigRequest(Ref="alpine"),
                    gateway_pb2.ResolveImageConfigResponse,
                ),
                (
                    "ResolveSourceMeta",
                    gateway_pb2.ResolveSourceMetaRequest(Source=llb_pb2.SourceOp(identifier=ALPINE)),
                    gateway_pb2.ResolveSourceMetaResponse,
                ),
            ):
                request.SourcePolicies.append(policy(1))  # type: ignore[attr-defined]
                with pytest.raises(RpcError, match="denied by policy"):
                    await ask(channel, "led", name, request, reply)
            await give_back(channel, "led", result=gateway_pb2.Result())
            await building

    run(work())


def decision(**fields: Any) -> policysession_pb2.CheckPolicyResponse:
    return policysession_pb2.CheckPolicyResponse(decision=policysession_pb2.DecisionResponse(**fields))


def test_a_client_that_denies_a_source_says_why(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        message = policysession_pb2.DenyMessage(message="use busybox instead")
        questions = asked(client, decision(action=1, denyMessages=[message]))
        async with daemon(tmp_path) as channel, client.serving(channel):
            with pytest.raises(RpcError) as caught:
                await solve(channel, client, Definition=graph(), SourcePolicySession=client.session)
            assert "not allowed by policy: action DENY" in caught.value.message
            assert questions[0].Source.Source.identifier == ALPINE
            assert questions[0].Platform.OS == "linux"
            details = rpcstatus_pb2.Status.FromString(caught.value.details).details
            (denied,) = [d for d in details if d.type_url.endswith("policysession.DecisionResponse+json")]
            assert json.loads(denied.value)["denyMessages"] == [{"message": "use busybox instead"}]

    run(work())


def test_a_client_converts_asks_about_that_source_alone_and_not_for_ever(tmp_path: Path) -> None:
    context = tree(tmp_path / "c", one="1")
    local = llb_pb2.SourceOp(identifier="local://context")
    other = gateway_pb2.ResolveSourceMetaRequest(Source=llb_pb2.SourceOp(identifier="docker-image://x"))
    same = gateway_pb2.ResolveSourceMetaRequest(Source=local)

    async def work() -> None:
        client = Client(context=context)
        async with daemon(tmp_path) as channel:
            questions = asked(
                client,
                decision(action=2, update=local),
                policysession_pb2.CheckPolicyResponse(request=same),
                decision(action=0),
            )
            async with client.serving(channel):
                await solve(
                    channel,
                    client,
                    Definition=graph(),
                    SourcePolicySession=client.session,
                    Exporters=[control_pb2.Exporter(Type="tar")],
                )
            assert [q.Source.Source.identifier for q in questions] == [
                ALPINE,
                "local://context",
                "local://context",
            ]
            for answer, says in (
                (policysession_pb2.CheckPolicyResponse(request=other), "different source identifier"),
                (decision(action=2, update=local), "too many policy requests"),
            ):
                second = Client(context=context)
                asked(second, answer)
                async with second.serving(channel):
                    with pytest.raises(RpcError, match=says):
                        await solve(
                            channel, second, says, Definition=graph(), SourcePolicySession=second.session
                        )

    run(work())


def test_a_context_that_names_an_image_is_what_a_policy_makes_of_it(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(
            tmp_path / "c", Dockerfile="FROM scratch AS other\nFROM scratch\nCOPY --from=other /foo /\n"
        )
        client = Client(context=context, dockerfile=context, test=tree(tmp_path / "t", foo="of the client"))
        client.target = tree(tmp_path / "out")
        rules = policy(2)
        rules.rules[0].updates.identifier = "local://test"
        async with daemon(tmp_path) as channel, client.serving(channel):
            await solve(
                channel,
                client,
                Frontend="dockerfile.v0",
                FrontendAttrs={"context:other": "docker-image:docker.io/library/alpine:latest"},
                SourcePolicy=rules,
                Exporters=[control_pb2.Exporter(Type="local")],
            )
        assert (client.target / "foo").read_text() == "of the client"

    run(work())


def test_a_stage_that_a_directory_stands_for_has_the_platform_of_the_build(tmp_path: Path) -> None:
    async def work() -> None:
        text = "FROM scratch AS other\nCOPY Dockerfile /\nFROM other\nCOPY Dockerfile /two\n"
        context = tree(tmp_path / "c", Dockerfile=text)
        client = Client(context=context, dockerfile=context, dir=tree(tmp_path / "t", foo="of the client"))
        client.target = tree(tmp_path / "out")
        async with daemon(tmp_path) as channel, client.serving(channel):
            await solve(
                channel,
                client,
                Frontend="dockerfile.v0",
                FrontendAttrs={"context:other": "local:dir"},
                Exporters=[control_pb2.Exporter(Type="local")],
            )
        assert sorted(path.name for path in client.target.iterdir()) == ["foo", "two"]

    run(work())
