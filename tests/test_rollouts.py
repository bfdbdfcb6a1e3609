"""A new version of a specialist on its way into use: verdicts, files, and who answers meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_specialist, write_specialist
from pointsman.catalog.store import FileStore
from pointsman.decision.trial import Course, Verdict, judge, least_drop
from pointsman.embedding.encoder import Rows
from pointsman.errors import OverloadedError, PreconditionError, UnknownNameError
from pointsman.generation.likeness import Likeness
from pointsman.generation.trials import Given, Trials
from pointsman.host.rollouts import advance, begin, move_on, roll_back
from pointsman.values.catalog import FREE_TEXT, Catalog, Output, Rollout, Specialist
from pointsman.values.request import Message, Request, Role
from pointsman.values.rollout import Past, Stage, Tally, Trial

LIVE = make_specialist(system_prompt="Answer.")
NEXT = make_specialist(system_prompt="Answer well.")
MARKED = replace(NEXT, name="support@next")


def asked(request_id: str = "r1", session_id: str = "") -> Request:
    return Request((Message(Role.USER, "hello"),), request_id=request_id, session_id=session_id)


# Verdicts


@pytest.mark.parametrize(
    ("candidate", "live", "course"),
    [
        (Tally(0, 0), Tally(0, 0), Course.WAIT),
        (Tally(49, 49), Tally(60, 60), Course.WAIT),
        (Tally(50, 50), Tally(49, 49), Course.WAIT),
        (Tally(50, 48), Tally(50, 50), Course.ADVANCE),
        (Tally(50, 47), Tally(50, 50), Course.BACK),
        (Tally(50, 50), Tally(50, 20), Course.ADVANCE),
        (Tally(12, 0), Tally(40, 40), Course.BACK),
        (Tally(3, 0), Tally(3, 3), Course.WAIT),
    ],
)
def test_the_verdict_is_that_of_the_tallies(candidate: Tally, live: Tally, course: Course) -> None:
    assert judge(candidate, live, needed=50, bound=0.05).course is course


def test_the_verdict_says_its_figures() -> None:
    why = judge(Tally(50, 40), Tally(50, 50), needed=50, bound=0.05).why
    assert "40 of 50" in why
    assert "50 of 50" in why


@given(
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
)
def test_the_least_drop_is_never_over_the_drop_seen(one: tuple[int, int], other: tuple[int, int]) -> None:
    candidate, live = Tally(*one), Tally(*other)
    assert -1 - 1e-12 <= least_drop(candidate, live) <= live.rate - candidate.rate + 1e-12


def test_the_least_drop_nears_the_drop_with_answers() -> None:
    limits = [least_drop(Tally(10 * n, 8 * n), Tally(10 * n, 10 * n)) for n in (1, 10, 100)]
    assert limits == sorted(limits)
    assert 0.15 < limits[-1] < 0.2


# Files


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    write_specialist(tmp_path / "specialists", "support.yaml", more="system_prompt: Answer.\n")
    return FileStore(tmp_path / "intents", tmp_path / "specialists")


def reloaded(store: FileStore) -> Catalog:
    """Return the catalog as a process has it that has just started."""
    return FileStore(store.intents_dir, store.specialists_dir).load()


def test_a_rollout_goes_through_its_stages_into_the_manifest(store: FileStore) -> None:
    begin(store, NEXT, share=0.2, bound=0.1, answers=7, agreement=0.6)
    catalog = reloaded(store)
    assert catalog.problems == ()
    assert catalog.rollout("support") == Rollout("support", MARKED, Stage.SHADOW, 0.2, 0.1, 7, 0.6)
    assert catalog.specialist("support") == LIVE
    assert move_on(store, "support") is Stage.CANARY
    assert move_on(store, "support") is Stage.ALL
    assert reloaded(store).specialist("support") == LIVE
    assert move_on(store, "support") is None
    done = reloaded(store)
    assert done.rollouts == ()
    assert done.problems == ()
    assert done.specialist("support") == NEXT


def test_a_stage_keeps_what_those_before_it_showed(store: FileStore) -> None:
    rollout = begin(store, NEXT, 0.1, 0.05, 50, 0.7)
    first = Past(Stage.SHADOW, Tally(50, 49), Tally(50, 48))
    advance(store, LIVE, rollout, Verdict(Course.ADVANCE, ""), first)
    read = reloaded(store).rollout("support")
    assert read is not None
    assert (read.stage, read.past, read.baseline) == (Stage.CANARY, (first,), Tally(50, 48))


def test_the_version_of_the_catalog_tells_a_rollout(store: FileStore) -> None:
    before = reloaded(store).digest("e")
    begin(store, NEXT, 0.1, 0.05, 50, 0.7)
    shadow = reloaded(store).digest("e")
    move_on(store, "support")
    assert len({before, shadow, reloaded(store).digest("e")}) == 3


def test_going_back_leaves_the_live_version_and_keeps_what_was_shown(store: FileStore) -> None:
    rollout = begin(store, NEXT, 0.1, 0.05, 50, 0.7)
    past = Past(Stage.SHADOW, Tally(50, 10), Tally(50, 50))
    advance(store, LIVE, rollout, Verdict(Course.BACK, "10 of 50 succeeded"), past)
    catalog = reloaded(store)
    assert catalog.rollouts == ()
    assert catalog.specialist("support") == LIVE
    kept = (store.rollouts.folder / "rejected" / "support.yaml").read_text()
    assert "10 of 50 succeeded" in kept
    assert "successes: 10" in kept


def test_rolling_back_exchanges_the_live_version_for_the_one_before(store: FileStore) -> None:
    begin(store, NEXT, 0.1, 0.05, 50, 0.7)
    for _ in range(3):
        move_on(store, "support")
    assert roll_back(store, "support") is None
    assert reloaded(store).specialist("support") == LIVE
    assert roll_back(store, "support") is None
    assert reloaded(store).specialist("support") == NEXT


def test_what_cannot_be_promoted_is_refused(store: FileStore) -> None:
    with pytest.raises(UnknownNameError, match="'other'; known: support"):
        begin(store, make_specialist("other"), 0.1, 0.05, 50, 0.7)
    with pytest.raises(PreconditionError, match="the version that is live"):
        begin(store, LIVE, 0.1, 0.05, 50, 0.7)
    with pytest.raises(PreconditionError, match="has no rollout"):
        move_on(store, "support")
    with pytest.raises(PreconditionError, match="no version to go back to"):
        roll_back(store, "support")
    begin(store, NEXT, 0.1, 0.05, 50, 0.7)
    with pytest.raises(PreconditionError, match="has a rollout on its way"):
        begin(store, replace(NEXT, description="newer"), 0.1, 0.05, 50, 0.7)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stage: shadow", "stage: dawn", "rollouts/support.yaml:2: stage:"),
        ("share: 0.1", "share: 2", "rollouts/support.yaml:3: share:"),
        ("name: support", "name: sql", "the file must bear the specialist's name: sql.yaml (got sql)"),
        ("sha256:", "sha255:", "candidate.base.sha255"),
    ],
)
def test_a_broken_rollout_is_named_and_the_live_version_answers(
    store: FileStore, old: str, new: str, message: str
) -> None:
    begin(store, NEXT, 0.1, 0.05, 50, 0.7)
    path = store.rollouts.folder / "support.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    catalog = reloaded(store)
    assert catalog.rollouts == ()
    assert catalog.specialist("support") == LIVE
    assert any(message in str(problem) for problem in catalog.problems), catalog.problems


def test_a_rollout_of_nothing_live_is_named(store: FileStore) -> None:
    begin(store, NEXT, 0.1, 0.05, 50, 0.7)
    (store.specialists_dir / "support.yaml").unlink()
    (problem,) = reloaded(store).problems
    assert "no such specialist is live" in problem.message


# Who answers


async def embed(texts: Sequence[str]) -> Rows:
    """One direction for each text that does not end in a full stop; the same one with it."""
    rows = [[float(text.removesuffix(".") == other.removesuffix(".")) for other in texts] for text in texts]
    return np.array(rows, np.float32) / np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)


class Bench:
    """Trials over one rollout; what was decided is kept."""

    output = FREE_TEXT

    def __init__(self, tasks: asyncio.TaskGroup, stage: Stage, **fields: object) -> None:
        self.rollout = Rollout("support", MARKED, stage, **fields)  # type: ignore[arg-type]
        self.catalog = Catalog(specialists=(LIVE,), rollouts=(self.rollout,))
        self.decided: list[tuple[Verdict, Past]] = []
        self.trials = Trials(Likeness(embed, 0.9), tasks)
        self.trials.tell(self._decide)
        self.trials.take(self.catalog)

    async def _decide(self, rollout: Rollout, verdict: Verdict, past: Past) -> None:
        assert rollout == self.rollout
        self.decided.append((verdict, past))

    def picked(self, request: Request) -> Specialist:
        return self.trials.pick(self.catalog, LIVE, request)

    def note(self, version: Specialist, *, success: bool) -> None:
        self.trials.note(self.catalog, "support", version, success=success)

    def move(self, stage: Stage) -> None:
        """Move on by hand, as `move_on` writes it."""
        past = (*self.rollout.past, Past(self.rollout.stage, Tally(), Tally()))
        self.rollout = replace(self.rollout, stage=stage, past=past)
        self.catalog = replace(self.catalog, rollouts=(self.rollout,))
        self.trials.take(self.catalog)

    async def shadowed(self, said: str | None, text: str, number: int = 0, *, success: bool = True) -> None:
        """Have the candidate say `text` where a caller got `said`."""

        async def ask(request: Request, version: Specialist) -> tuple[str, bool]:
            return text, success

        given = Given(said, self.output, success=True)
        self.trials.shadow(self.catalog, "support", asked(f"r{number}"), ask, given)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_in_shadow_the_live_version_answers_and_a_share_is_asked_of_both() -> None:
    heard: list[Specialist] = []

    async def ask(request: Request, version: Specialist) -> tuple[str, bool]:
        heard.append(version)
        return "hello", True

    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.SHADOW, share=0.5, answers=1000)
        for i in range(200):
            request = asked(f"r{i}")
            assert bench.picked(request) == LIVE
            given = Given("hello", FREE_TEXT, success=i % 2 == 0)
            bench.trials.shadow(bench.catalog, "support", request, ask, given)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert set(heard) == {MARKED}
    assert 60 < len(heard) < 140
    trial = bench.trials.running()["support"]
    assert trial.candidate == trial.same == Tally(len(heard), len(heard))
    assert trial.live.answers == len(heard) > trial.live.successes > 0


async def test_one_shadow_at_a_time_and_none_counts_that_failed_to_run() -> None:
    gate = asyncio.Event()
    begun = 0

    async def ask(request: Request, version: Specialist) -> tuple[str, bool]:
        nonlocal begun
        begun += 1
        await gate.wait()
        raise OverloadedError("full", 1.0)

    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.SHADOW, share=1.0)
        for i in range(5):
            given = Given("", FREE_TEXT, success=True)
            bench.trials.shadow(bench.catalog, "support", asked(f"r{i}"), ask, given)
            await asyncio.sleep(0)
        gate.set()
    assert begun == 1
    assert bench.trials.running()["support"] == Trial(Stage.SHADOW, Tally(), Tally(), Tally())


async def test_a_canary_answers_its_share_and_a_session_keeps_its_version() -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.CANARY, share=0.25)
        picked = [bench.picked(asked(f"r{i}")) for i in range(400)]
        assert 60 < picked.count(MARKED) < 140
        in_session = {bench.picked(asked(f"r{i}", "s1")) for i in range(20)}
        assert len(in_session) == 1


@pytest.mark.parametrize("works", [True, False])
async def test_a_canary_is_decided_once(works: bool) -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.CANARY, share=0.5, answers=20)
        for i in range(200):
            version = bench.picked(asked(f"r{i}"))
            success = works or version == LIVE
            bench.note(version, success=success)
            await asyncio.sleep(0)
        ((verdict, past),) = bench.decided
        if works:
            assert verdict.course is Course.ADVANCE
            assert min(past.candidate.answers, past.live.answers) == 20
            assert MARKED in {bench.picked(asked(f"q{i}")) for i in range(50)}
        else:
            assert verdict.course is Course.BACK
            assert past.candidate.successes == 0
            assert {bench.picked(asked(f"q{i}")) for i in range(50)} == {
                LIVE
            }  # at once, not when files say so


async def test_once_it_answers_all_it_is_held_to_the_live_versions_last_tally() -> None:
    past = (Past(Stage.CANARY, Tally(50, 49), Tally(400, 392)),)
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.ALL, answers=50, past=past)
        for i in range(100):
            version = bench.picked(asked(f"r{i}"))
            bench.note(version, success=i % 2 == 0)
            await asyncio.sleep(0)
        ((verdict, shown),) = bench.decided
    assert verdict.course is Course.BACK
    assert shown.live == Tally(400, 392)
    assert shown.candidate.answers < 50  # sure before the stage was through


async def test_another_stage_counts_anew_and_no_rollout_counts_nothing() -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.CANARY, share=0.5)
        bench.note(MARKED, success=True)
        assert bench.trials.running()["support"] == Trial(Stage.CANARY, Tally(1, 1), Tally(), Tally())
        before = bench.catalog
        bench.move(Stage.ALL)
        bench.note(MARKED, success=False)
        bench.trials.note(before, "support", MARKED, success=True)  # of a request from before
        assert bench.trials.running()["support"] == Trial(Stage.ALL, Tally(1, 0), Tally(), Tally())
        over = replace(bench.catalog, rollouts=())
        bench.trials.take(over)
        assert bench.trials.pick(over, LIVE, asked()) == LIVE
        assert bench.trials.running() == {}


# What a candidate says, against what callers got


@pytest.mark.parametrize(
    ("output", "said", "text", "agrees"),
    [
        (FREE_TEXT, "hello", "hello.", True),
        (FREE_TEXT, "hello", "goodbye", False),
        (FREE_TEXT, "hello", "", False),
        (Output("choice", choices=("yes", "no")), "yes", "no", False),
        (Output("json"), '{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
        (Output("json"), '{"a": 1, "b": 2}', '{"a": 1, "b": 3}', False),
    ],
)
async def test_answers_are_held_against_what_callers_got_by_format_or_else_by_meaning(
    output: Output, said: str, text: str, agrees: bool
) -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.SHADOW, share=1.0)
        bench.output = output
        await bench.shadowed(said, text)
    assert bench.trials.running()["support"].same == Tally(1, int(agrees))


async def test_a_flagged_answer_is_nothing_to_hold_another_against() -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.SHADOW, share=1.0)
        await bench.shadowed(None, "goodbye")
    assert bench.trials.running()["support"] == Trial(Stage.SHADOW, Tally(1, 1), Tally(1, 1), Tally())


@pytest.mark.parametrize(("wrong", "course"), [(4, Course.ADVANCE), (5, Course.BACK)])
async def test_a_candidate_that_differs_too_often_goes_back_however_well_formed(
    wrong: int, course: Course
) -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.SHADOW, share=1.0, answers=15, agreement=0.7)
        for i in range(15):
            await bench.shadowed("hello", "goodbye" if i % 3 == 0 and i // 3 < wrong else "hello", i)
    ((verdict, past),) = bench.decided
    assert verdict.course is course
    assert past == Past(Stage.SHADOW, Tally(15, 15), Tally(15, 15), Tally(15, 15 - wrong))
    assert course is Course.ADVANCE or "10 of 15 say what callers got (70% must)" in verdict.why


async def test_a_candidate_that_always_differs_goes_back_before_the_stage_is_through() -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.SHADOW, share=1.0, answers=50, agreement=0.7)
        for i in range(20):
            await bench.shadowed("hello", "goodbye", i)
    ((verdict, past),) = bench.decided
    assert verdict.course is Course.BACK
    assert 1 < past.candidate.answers < 10
    assert "that is sure" in verdict.why


# Moved on by hand


async def test_what_was_seen_is_kept_when_a_stage_is_left_by_hand() -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.CANARY, share=0.5, answers=20)
        for i in range(25):
            bench.note(LIVE, success=i % 5 != 0)
        bench.move(Stage.ALL)
        for i in range(20):
            bench.note(MARKED, success=i % 5 != 0)
            await asyncio.sleep(0)
        ((verdict, past),) = bench.decided
    assert verdict.course is Course.ADVANCE
    assert past.live == Tally(25, 20)


@pytest.mark.parametrize(("bad", "course"), [(1, Course.ADVANCE), (2, Course.BACK)])
@pytest.mark.parametrize(("stage", "share"), [(Stage.ALL, 0.1), (Stage.CANARY, 1.0)])
async def test_where_nothing_is_seen_of_the_live_version_the_bound_holds_by_itself(
    stage: Stage, share: float, bad: int, course: Course
) -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks, Stage.SHADOW, share=share, answers=20)
        bench.move(stage)
        for i in range(20):
            bench.note(MARKED, success=i >= bad)
            await asyncio.sleep(0)
        ((verdict, _),) = bench.decided
    assert verdict.course is course
    assert "too few of the live version were seen" in verdict.why
