"""The source policy of one build: rules that came with its request, and a client that is asked about every
source through its session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.api.proto import gateway_pb2, llb_pb2, policysession_pb2
from anyarch.daemon.sourcemeta import resolve
from anyarch.engine.sourcepolicy import Action, Constraint, Rule, apply_rules, normalized
from anyarch.errors import BuildError, UsageError
from anyarch.llb.ops import SourceOp
from anyarch.spec.platform import host_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.api.proto import sourcepolicy_pb2
    from anyarch.engine.workbench import Workbench
    from anyarch.session.lender import Sessions
    from anyarch.spec.platform import Platform

__all__ = ["JobPolicy", "PolicyDenied", "rules_of"]

_CHECK = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy"
_MOST_QUESTIONS = 10


class PolicyDenied(BuildError):
    """A client's policy does not allow a source; `messages` say why."""

    def __init__(self, message: str, messages: Sequence[str]) -> None:
        super().__init__(message)
        self.messages = tuple(messages)


def rules_of(policy: sourcepolicy_pb2.Policy) -> tuple[Rule, ...]:
    """Raises `UsageError` for what cannot be one."""
    rules = []
    for rule in policy.rules:
        if not rule.HasField("selector"):
            raise UsageError("invalid nil selector in policy")
        selector = rule.selector
        rules.append(
            Rule(
                rule.action,
                selector.identifier,
                selector.match_type,
                tuple(Constraint(item.key, item.value, item.condition) for item in selector.constraints),
                (rule.updates.identifier, dict(rule.updates.attrs)) if rule.HasField("updates") else None,
            )
        )
    return tuple(rules)


class JobPolicy:
    """Implements `engine.sourcepolicy.SourcePolicy`, on the loop of a build's workbench. `wire` is the loop
    that sessions belong to, `session` the client that is asked (empty: nobody)."""

    def __init__(
        self,
        bench: Workbench,
        policies: Sequence[Sequence[Rule]],
        sessions: Sessions,
        wire: asyncio.AbstractEventLoop,
        session: str,
    ) -> None:
        self._bench = bench
        self._policies = [rules for rules in policies if rules]
        self._sessions = sessions
        self._wire = wire
        self._session = session

    def extended(self, policies: Sequence[sourcepolicy_pb2.Policy]) -> JobPolicy:
        """The same with more rules. Raises `UsageError`."""
        more = [rules_of(policy) for policy in policies]
        return JobPolicy(self._bench, [*self._policies, *more], self._sessions, self._wire, self._session)

    @property
    def is_empty(self) -> bool:
        return not self._policies and not self._session

    async def evaluate(self, op: SourceOp, platform: Platform | None) -> SourceOp:
        return await self._evaluate(op, platform, _MOST_QUESTIONS)

    async def _evaluate(self, op: SourceOp, platform: Platform | None, budget: int) -> SourceOp:
        plain, told = op, normalized(op)
        op = told
        if self._policies:
            op = await asyncio.to_thread(apply_rules, self._policies, op)
        if not self._session:
            return plain if op == told else op
        target = platform or host_platform()
        source = llb_pb2.SourceOp(identifier=op.identifier, attrs=op.attrs)
        question = policysession_pb2.CheckPolicyRequest(
            Platform=llb_pb2.Platform(OS=target.os, Architecture=target.architecture, Variant=target.variant),
            Source=gateway_pb2.ResolveSourceMetaResponse(Source=source),
        )
        while budget > 0:
            budget -= 1
            answer = await self._ask(question)
            if answer.WhichOneof("result") == "request":
                question.Source.CopyFrom(await self._meta(answer.request, source))
                continue
            if answer.WhichOneof("result") != "decision":
                raise BuildError("no decision in policy response")
            decision = answer.decision
            action = int(decision.action)
            if action == Action.ALLOW:
                return plain if op == told else op
            if action == Action.CONVERT:
                if not decision.HasField("update"):
                    raise BuildError("convert action requires updated source")
                made = SourceOp(decision.update.identifier, dict(decision.update.attrs))
                return await self._evaluate(made, platform, budget)
            name = "DENY" if action == Action.DENY else str(action)
            raise PolicyDenied(
                f'source "{op.identifier}" not allowed by policy: action {name}',
                [item.message for item in decision.denyMessages],
            )
        raise BuildError("too many policy requests")

    async def _ask(
        self, question: policysession_pb2.CheckPolicyRequest
    ) -> policysession_pb2.CheckPolicyResponse:
        async def call() -> policysession_pb2.CheckPolicyResponse:
            session = await self._sessions.get(self._session)
            return await session.channel.unary(_CHECK, question, policysession_pb2.CheckPolicyResponse)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), self._wire))

    async def _meta(
        self, request: gateway_pb2.ResolveSourceMetaRequest, source: llb_pb2.SourceOp
    ) -> gateway_pb2.ResolveSourceMetaResponse:
        """What the client wants to know of the source, and of no other."""
        asked = request.Source
        if asked.identifier != source.identifier:
            raise BuildError(
                f'policy requested different source identifier: "{asked.identifier}" != "{source.identifier}"'
            )
        if dict(asked.attrs) != dict(source.attrs):
            raise BuildError("policy requested different source attrs")
        return await resolve(self._bench, request)
