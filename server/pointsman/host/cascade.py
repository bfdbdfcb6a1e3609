"""Prompts with known answers to labelled answers of a specialist, through the engine that serves."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from pointsman.artifacts.verdict import sha256_of
from pointsman.catalog.files import shown
from pointsman.catalog.output_format import format_of
from pointsman.errors import CatalogError, ConfigError, PointsmanError, UnknownNameError
from pointsman.generation.answer import can_repair
from pointsman.generation.engine_pool import EnginePool
from pointsman.generation.normalise import Normaliser
from pointsman.generation.prompt import local_question
from pointsman.host.serve import open_core
from pointsman.review.cascade import LabelledAnswer
from pointsman.settings import Settings
from pointsman.values.catalog import Adapter, Artifact, Problem, Specialist
from pointsman.values.events import Finished, FinishReason
from pointsman.values.request import Message, Request, Role


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt and its right answer."""

    prompt: str
    answer: str


def read_known(path: Path) -> list[Known]:
    """Read `{"user": "…", "answer": "…"}` a line; other fields are ignored.

    Raises:
        CatalogError: every bad line, or none that is good.

    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError([Problem(str(path), 0, "", "", f"cannot be read: {error}")]) from None
    found: list[Known] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            known = Known(fields["user"], fields["answer"])
            problems += [
                Problem(str(path), number, name, shown(fields[name]), "expected text")
                for name in ("user", "answer")
                if not isinstance(fields[name], str) or not fields[name].strip()
            ]
        except (ValueError, RecursionError, KeyError, TypeError):
            message = 'expected {"user": "…", "answer": "…"}'
            problems.append(Problem(str(path), number, "", shown(line), message))
            continue
        found.append(known)
    if problems:
        raise CatalogError(problems[:100])
    if not found:
        raise CatalogError([Problem(str(path), 0, "", "", "holds no prompts")])
    return found


async def collect(
    settings: Settings,
    name: str,
    known: Sequence[Known],
    progress: Callable[[int, int], None],
    adapter: Path | None = None,
) -> list[LabelledAnswer]:
    """Ask a specialist each prompt, as serving would; an answer that equals the known one is right.

    An answer that breaks its format is made anew, held to it, where serving does so; then that one counts.

    adapter: of a twin, which answers in place of the specialist's own

    Raises:
        UnknownNameError: no such specialist.
        ConfigError: the adapter cannot be read, or is the specialist's own.
        BackendDownError: its engine failed, or its files were refused.

    """
    async with open_core(settings) as core:
        catalog = core.catalogs.catalog.with_candidates
        specialist = catalog.specialist(name)
        if specialist is None:
            raise UnknownNameError("specialist", name, [s.name for s in catalog.specialists])
        asked = specialist if adapter is None else await _twin(core.engines, specialist, adapter)
        places = asyncio.Semaphore(settings.engine.slots)
        answers: list[LabelledAnswer | None] = [None] * len(known)
        done = 0

        async def one(i: int) -> None:
            nonlocal done
            async with places:
                answer = await _served(core.engines, asked, known[i])
                # Also of a twin, the hash is the specialist's: its labels are stale once the specialist changes.
                answers[i] = replace(answer, answers_hash=specialist.answers_hash, twin=adapter is not None)
            done += 1
            progress(done, len(known))

        async with asyncio.TaskGroup() as tasks:
            for i in range(len(known)):
                tasks.create_task(one(i), name=f"prompt {i}")
    return [answer for answer in answers if answer is not None]


async def _twin(engines: EnginePool, specialist: Specialist, adapter: Path) -> Specialist:
    """Return a specialist with another adapter, whose engine is started for it."""
    try:
        artifact = await asyncio.to_thread(lambda: Artifact(f"file:{adapter.absolute()}", sha256_of(adapter)))
    except OSError as error:
        raise ConfigError(f"--adapter: cannot be read: {error}") from None
    own = specialist.adapter
    if own is not None and own.artifact.sha256 == artifact.sha256:
        raise ConfigError(f"--adapter: {adapter} is what {specialist.name} answers with anyway")
    twin = replace(specialist, adapter=Adapter(artifact, own.scale if own is not None else 1.0))
    await engines.apply([twin])
    return twin


async def _served(engines: EnginePool, specialist: Specialist, known: Known) -> LabelledAnswer:
    answer = await _ask(engines, specialist, known)
    checks = format_of(specialist.output)
    if checks is None or not checks.why_not(answer.answer) or not can_repair(specialist):
        return answer
    try:
        return await _ask(engines, specialist, known, repair=True)
    except PointsmanError:  # then serving judges the first one
        return answer


async def _ask(
    engines: EnginePool, specialist: Specialist, known: Known, *, repair: bool = False
) -> LabelledAnswer:
    request = Request((Message(Role.USER, known.prompt),))
    normaliser = Normaliser(fenced=specialist.output.format != "text")
    logprobs: list[float | None] = []
    finished: Finished | None = None
    async with engines.lease(specialist) as lease:
        question = local_question(request, specialist, lease.adapters, judged=True, repair=repair)
        async with lease.place(question.max_tokens), aclosing(lease.stream(question)) as stream:
            async for item in stream:
                if isinstance(item, Finished):
                    finished = item
                    break
                logprobs.append(item.logprob)
                normaliser.feed(item.text)
    normaliser.end()
    if finished is None:
        raise PointsmanError(f"{lease.engine.name} ended without finishing an answer")
    return LabelledAnswer(
        specialist=specialist.name,
        prompt=known.prompt,
        answer=normaliser.text,
        logprobs=tuple(logprobs),
        right=normaliser.text == known.answer.strip(),
        cut=finished.reason is FinishReason.LENGTH,
        repaired=repair,
    )
