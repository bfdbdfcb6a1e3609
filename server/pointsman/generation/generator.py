"""A request to events: decision, tokens, perhaps an escalation, done."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from pointsman.catalog.output_format import format_of
from pointsman.decision.decide import without_cloud
from pointsman.decision.escalate import draft_stands, escalated, may_escalate, repaired
from pointsman.errors import (
    BackendDownError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    PointsmanError,
    PolicyError,
    for_callers,
)
from pointsman.generation.answer import Answer, Draft, Options, broken_off, can_repair, common_prefix, gap
from pointsman.generation.backend import Stream
from pointsman.generation.cascade import Verdict, Watch
from pointsman.generation.cloud import Cloud
from pointsman.generation.egress import Egress, Leaving
from pointsman.generation.engine_pool import EnginePool
from pointsman.generation.normalise import Normaliser
from pointsman.generation.prompt import cloud_question, escalated_question, local_question
from pointsman.generation.shadows import Shadows
from pointsman.generation.trials import Given, Trials
from pointsman.policy.rules import rule
from pointsman.router.router import Route, Router
from pointsman.sections import Cascade as CascadeSettings
from pointsman.values.catalog import FREE_TEXT, Specialist
from pointsman.values.decision import Reason
from pointsman.values.events import (
    Cost,
    Done,
    Escalation,
    Event,
    Finished,
    FinishReason,
    Shortfall,
    Token,
    Usage,
)
from pointsman.values.request import BYTES_PER_TOKEN, Request, size_of

Said = AsyncGenerator[Token | Escalation, None]
_CLOUD_FAILURES = (BackendDownError, OverloadedError, InvalidRequestError, PolicyError)


class Generator:
    """Routes, then answers from the backend that the decision names; see docs/cascade.md for what may follow."""

    def __init__(
        self,
        router: Router,
        engines: EnginePool,
        cloud: Cloud | None,
        cascade: CascadeSettings = CascadeSettings(),  # noqa: B008 - frozen
        trials: Trials | None = None,
        leaving: Leaving | None = None,
        shadows: Shadows | None = None,
    ) -> None:
        self._shadows = shadows
        self._egress = Egress(cloud, router.gate, leaving) if cloud else None
        self._trials = trials
        self._router = router
        self._engines = engines
        self._cascade = cascade

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request. Closing the generator frees the slot within a token.

        Raises:
            InvalidRequestError, UnknownNameError, PolicyError, NoRouteError, OverloadedError, BackendDownError

        """
        arrived = time.perf_counter()
        route = await self._router.route(request)
        answer = Answer(route.request, route, route.routed.decision, arrived)
        answer.drawn = self._shadows is not None and self._shadows.draw()
        yield route.routed
        try:
            async with aclosing(self._said(answer)) as said:
                async for event in said:
                    yield event
        except DeadlineError as error:
            if answer.decision.specialist is None or not self._may_escalate(answer):
                raise
            answer.late = True
            verdict = Verdict(
                Shortfall.DEADLINE, None, f"The deadline cannot be met locally ({for_callers(error)})"
            )
            async with aclosing(self._escalate(answer, verdict, "", None)) as said:
                async for event in said:
                    yield event
            if answer.finished is None:
                raise
        except (BackendDownError, OverloadedError) as error:
            if isinstance(error, BackendDownError):
                self._note_trial(answer, success=False, ended=False)
            takeover = self._takeover(answer, error)
            if takeover is None:
                raise
            answer.retries += error.retries or 0
            yield takeover
            async with aclosing(self._said(answer)) as said:
                async for event in said:
                    yield event
        self._note_trial(answer, success=not answer.faulty)
        self._ask_beside(answer)
        yield self._done(answer)

    def _takeover(self, answer: Answer, error: Exception) -> Escalation | None:
        """Return the switch to the general specialist, if the cloud failed before it said anything."""
        decision = answer.decision
        if decision.specialist is not None or answer.ttft_ms:
            return None
        local = without_cloud(
            decision, answer.route.snapshot.setup, f"The cloud is down ({for_callers(error)})"
        )
        return answer.move(local, Verdict(), 0) if local else None

    async def _said(self, answer: Answer) -> Said:
        if answer.decision.specialist is not None:
            async with aclosing(self._locally(answer)) as said:
                async for event in said:
                    yield event
            return
        assert self._egress is not None  # noqa: S101 - decisions name the cloud only when there is one
        question = cloud_question(answer.request, self._egress.cloud.settings)
        normaliser = Normaliser()
        async with aclosing(self._egress.stream(answer, question, answer.decision.model)) as stream:
            async for item in stream:
                if isinstance(item, Token):
                    answer.note(item.logprob)
                else:
                    answer.finished = item
                piece = normaliser.feed(item.text) if isinstance(item, Token) else normaliser.end()
                if piece:
                    yield answer.say(piece)

    async def _locally(self, answer: Answer) -> Said:
        """Answer from the decision's specialist, and on from the cloud where the answer falls short."""
        decision, specialist = answer.decision, self._specialist(answer)
        watch = self._watch(answer, specialist)
        may = Options(
            escalate=watch.on and self._may_escalate(answer), repair=watch.on and can_repair(specialist)
        )
        normaliser = Normaliser(fenced=specialist.output.format != "text")
        async with aclosing(self._drafted(answer, specialist, watch, normaliser, may)) as said:
            async for event in said:
                yield event
        if answer.decision is not decision:
            return
        draft = self._judged(answer, watch, normaliser, may)
        why = draft.verdict.why
        if draft.verdict.shortfall is Shortfall.INVALID and may.repair:
            draft = await self._repair(answer, specialist) or draft
        answer.faulty = draft.faulty
        if draft.verdict.shortfall is not None and may.escalate:
            async with aclosing(self._escalate(answer, draft.verdict, draft.text, draft.finished)) as said:
                async for event in said:
                    yield event
            if answer.decision is not decision:
                return
        answer.finished = draft.finished
        answer.confidence, answer.shortfall = draft.verdict.confidence, draft.verdict.shortfall
        stands = common_prefix(answer.said, draft.text)
        if stands < len(answer.said):
            yield answer.move(repaired(answer.decision, why), Verdict(Shortfall.INVALID), stands)
        if len(draft.text) > len(answer.said):
            yield answer.say(draft.text[len(answer.said) :])

    async def _drafted(
        self, answer: Answer, specialist: Specialist, watch: Watch, normaliser: Normaliser, may: Options
    ) -> Said:
        """Say the local answer as it comes. Ends early where it escalates, or is to be repaired."""
        decision = answer.decision
        async with aclosing(self._local(answer, specialist, watch)) as stream:
            async for item in stream:
                if isinstance(item, Finished):
                    answer.finished = item
                    return
                may.tokens += 1
                answer.note(item.logprob)
                if answer.drawn:
                    answer.logprobs.append(item.logprob)
                normaliser.feed(item.text)
                verdict = watch.take(item.logprob, normaliser.text)
                if verdict.shortfall is not None and may.noted.shortfall is None:
                    may.noted = verdict
                    if verdict.shortfall is Shortfall.INVALID and may.repair:
                        return
                    if may.escalate:
                        # The local answer goes on meanwhile: it is what stands if the cloud fails.
                        may.escalate = False
                        answer.faulty = watch.faulty
                        begun = normaliser.text
                        async with aclosing(self._escalate(answer, verdict, begun, None)) as said:
                            async for event in said:
                                await stream.aclose()
                                yield event
                        if answer.decision is not decision:
                            return
                # Who must be told nothing that could be taken back waits for nothing where nothing can.
                final = answer.request.hold_all and not (may.escalate or may.repair)
                shown = len(normaliser.text) if final else watch.showable(normaliser.text)
                if shown > len(answer.said):
                    may.escalate = may.escalate and not answer.request.hold_all
                    yield answer.say(normaliser.text[len(answer.said) : shown])

    @staticmethod
    def _judged(answer: Answer, watch: Watch, normaliser: Normaliser, may: Options) -> Draft:
        """Return the local answer with the verdict on all of it, or with that on the way if it is worse."""
        normaliser.end()
        finished = answer.finished or broken_off(may.tokens)
        verdict = watch.end(normaliser.text, cut=finished.reason is FinishReason.LENGTH)
        if verdict.shortfall is None and may.noted.shortfall is not None:
            verdict = replace(may.noted, confidence=verdict.confidence)
        return Draft(normaliser.text, finished, verdict, watch.faulty)

    async def _escalate(  # noqa: C901 - one way there, one way back
        self, answer: Answer, verdict: Verdict, draft: str, local: Finished | None
    ) -> Said:
        """Answer from the cloud, from its first token on; says nothing, and leaves `answer` alone, if none comes.

        If the cloud fails after that, the draft stands again. local: how the draft ended, None if it was cut.
        """
        assert self._egress is not None  # noqa: S101 - see `_may_escalate`
        answer.asked_ms = answer.elapsed_ms()
        setup, before = answer.route.snapshot.setup, answer.decision
        specialist = self._specialist(answer)
        after = escalated(before, setup, verdict.why)
        stands = verdict.stands if 0 < verdict.stands <= len(answer.said) else 0
        told = await self._egress.tellable(answer, specialist, draft[:stands] or draft)
        stands = stands if told else 0
        question = escalated_question(
            answer.request, specialist, self._egress.cloud.settings, told, onward=stands > 0
        )
        normaliser = Normaliser(fenced=specialist.output.format != "text")
        finished: Finished | None = None
        failure = ""
        try:
            output = specialist.output.format
            async with aclosing(self._egress.stream(answer, question, after.model, output)) as stream:
                async for item in stream:
                    piece = normaliser.feed(item.text) if isinstance(item, Token) else normaliser.end()
                    if piece and answer.decision is before:
                        yield answer.move(after, verdict, stands)
                        piece = gap(draft, stands) + piece
                    if isinstance(item, Finished):
                        finished = item
                    else:
                        answer.note(item.logprob)
                    if piece:
                        yield answer.say(piece)
        except _CLOUD_FAILURES as error:
            if not draft and answer.decision is not before:  # there is nothing that could stand
                raise
            answer.retries += error.retries or 0
            answer.uncounted += answer.decision is not before
            failure = f"The cloud failed ({for_callers(error)})"
        if answer.decision is before:
            answer.asked_ms = None
            return
        if draft and finished is not None and finished.reason is FinishReason.CONTENT_FILTER:
            failure = "The cloud's content filter ended its answer"
            answer.retries += finished.retries
            answer.spent = self._cost(after.model, finished.usage)
            answer.uncounted += answer.spent is None
        if failure:
            yield answer.move(draft_stands(before, failure), verdict, common_prefix(answer.said, draft))
            answer.finished = local or broken_off(0)
            answer.confidence, answer.shortfall = verdict.confidence, verdict.shortfall
            if len(draft) > len(answer.said):
                yield answer.say(draft[len(answer.said) :])
            return
        answer.finished = finished
        if not stands and self._breaks_format(specialist, answer.said):
            answer.shortfall = Shortfall.INVALID

    async def _repair(self, answer: Answer, specialist: Specialist) -> Draft | None:
        """Ask the specialist again, held to its format; None where that could not be done."""
        try:
            return await self._unseen(answer, specialist, repair=True)
        except PointsmanError:  # a grammar that the engine refuses, a full queue, an engine that died
            return None

    async def _unseen(self, answer: Answer, specialist: Specialist, *, repair: bool = False) -> Draft:
        """Return a whole answer of a specialist, judged, of which its caller has been told nothing."""
        watch = self._watch(answer, specialist, repaired=repair)
        normaliser = Normaliser(fenced=specialist.output.format != "text")
        finished: Finished | None = None
        async with aclosing(self._local(answer, specialist, watch, repair=repair)) as stream:
            async for item in stream:
                if isinstance(item, Finished):
                    finished = item
                    break
                normaliser.feed(item.text)
                watch.take(item.logprob, normaliser.text)
        assert finished is not None  # noqa: S101 - a backend's stream ends with it, or raises
        normaliser.end()
        verdict = watch.end(normaliser.text, cut=finished.reason is FinishReason.LENGTH)
        return Draft(normaliser.text, finished, verdict, watch.faulty)

    async def _local(
        self, answer: Answer, specialist: Specialist, watch: Watch, *, repair: bool = False
    ) -> Stream:
        """Ask the specialist's engine."""
        async with self._engines.lease(specialist, answer.left_s()) as lease:
            question = local_question(
                answer.request,
                specialist,
                lease.adapters,
                judged=watch.model is not None or answer.drawn,
                repair=repair,
            )
            prompt_tokens = size_of(question.messages) // BYTES_PER_TOKEN
            async with lease.place(question.max_tokens, answer.left_s(), prompt_tokens) as queue_ms:
                answer.queue_ms = queue_ms
                async with aclosing(lease.stream(question)) as stream:
                    async for item in stream:
                        yield item

    def _specialist(self, answer: Answer) -> Specialist:
        catalog, name = answer.route.snapshot.catalog, answer.decision.specialist or ""
        if name not in answer.versions:
            live = catalog.specialist(name)
            assert live is not None  # noqa: S101 - decisions name specialists of their own snapshot
            version = self._trials.pick(catalog, live, answer.request) if self._trials else live
            answer.versions[name] = version
        return answer.versions[name]

    def _note_trial(self, answer: Answer, *, success: bool, ended: bool = True) -> None:
        """Tell the trials how the specialist did that the request was routed to; `ended`: its caller got an answer."""
        name = answer.route.routed.decision.specialist
        version = answer.versions.get(name or "")
        if self._trials is None or name is None or version is None or answer.late:
            return
        catalog = answer.route.snapshot.catalog
        self._trials.note(catalog, name, version, success=success)
        if ended:
            given = Given(answer.said if answer.shortfall is None else None, version.output, success)
            self._trials.shadow(catalog, name, answer.request, partial(self._shadow, answer.route), given)

    async def _shadow(self, route: Route, request: Request, version: Specialist) -> tuple[str, bool]:
        """Ask a version for an answer that nobody sees; returns it, and whether it has no fault that shows."""
        answer = Answer(request, route, route.routed.decision, time.perf_counter()).aside()
        draft = await self._unseen(answer, version)
        if draft.verdict.shortfall is Shortfall.INVALID and can_repair(version):
            draft = await self._repair(answer, version) or draft
        return draft.text, not draft.faulty

    def _ask_beside(self, answer: Answer) -> None:
        """Have the cloud asked, too, what a specialist has answered, if it is one of the share and may leave."""
        stands = answer.decision == answer.route.routed.decision and answer.decision.specialist is not None
        if self._shadows and self._egress and answer.drawn and stands and self._may_escalate(answer):
            self._shadows.take(answer, self._specialist(answer), self._egress)

    def _watch(self, answer: Answer, specialist: Specialist, *, repaired: bool = False) -> Watch:
        """Return the judge of the specialist's answers; one that is not on where nothing is to be judged."""
        learned = answer.route.snapshot.cascade
        model = None
        if self._cascade.enabled and specialist.cascade and learned is not None:
            model = learned.model(specialist.name, specialist.answers_hash)
        output = specialist.output if self._cascade.enabled else FREE_TEXT
        on = self._cascade.enabled and (specialist.cascade or output.format != FREE_TEXT.format)
        return Watch(output, model, self._cascade, answer.request, on=on, repaired=repaired)

    def _may_escalate(self, answer: Answer) -> bool:
        if self._egress is None or answer.decision.reason is Reason.CLOUD_DOWN:
            return False
        snapshot, request = answer.route.snapshot, answer.request
        ruling = rule(request, snapshot.catalog, snapshot.cloud_task_types, snapshot.setup.mid)
        return may_escalate(request, ruling, snapshot.setup)

    def _breaks_format(self, specialist: Specialist, text: str) -> bool:
        checks = format_of(specialist.output) if self._cascade.enabled else None
        return checks is not None and bool(checks.why_not(text))

    def _done(self, answer: Answer) -> Done:
        finished = answer.finished
        assert finished is not None  # noqa: S101 - a backend's stream ends with it, or raises
        cost = answer.spent
        if answer.decision.specialist is None:
            cost = self._cost(answer.decision.model, finished.usage)
        return answer.done(finished, cost)

    def _cost(self, model: str, usage: Usage) -> Cost | None:
        """Return what an answer of the cloud cost; an endpoint that tells no tokens is not free."""
        return self._egress.cloud.cost(model, usage) if self._egress and usage != Usage() else None
