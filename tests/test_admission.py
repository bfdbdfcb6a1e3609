"""Turns of adapters in front of an engine: who is admitted when, in events rather than seconds.

Time is the loop's own, driven by hand: `Clock.run` advances it to the next timer as soon as nothing else can run.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from pointsman.errors import DeadlineError, OverloadedError
from pointsman.generation.adapter_admission import AdapterAdmission
from pointsman.generation.engine_slots import EngineSlots
from pointsman.generation.place import Place
from pointsman.generation.speed import Speed, Tally
from pointsman.values.events import Usage

STEP_S = 0.02
TURN_S = 2.0


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose seconds pass when nothing is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def play(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(asyncio.wait_for(scene, 3600))


@dataclass
class Engine:
    """A step of 20 ms for all running answers of one adapter; counts what it says, and who was together."""

    admission: AdapterAdmission
    said: Counter[str] = field(default_factory=Counter)
    steps: list[tuple[float, str]] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=dict)
    together: set[str] = field(default_factory=set)
    running: list[Place] = field(default_factory=list)

    async def answer(self, adapter: str, tokens: int, *, gives_way: bool = True, prompt: int = 0) -> None:
        arrived = asyncio.get_running_loop().time()
        async with self.admission.place(adapter, tokens) as place:
            place.gives_way = gives_way
            self.waits.setdefault(adapter, []).append(asyncio.get_running_loop().time() - arrived)
            place.read(prompt)
            left = tokens
            while left:
                self.running.append(place)
                assert len({p.adapter for p in self.running}) == 1, "two adapters at work at once"
                self.together.add(f"{adapter}{len(self.running)}")
                await asyncio.sleep(STEP_S)
                self.running.remove(place)
                left -= 1
                self.said[adapter] += 1
                self.steps.append((asyncio.get_running_loop().time(), adapter))
                place.said(1)
                if left and place.turn_is_over and place.gives_way:
                    await place.next_turn()
            place.answered(Usage(10, tokens, 5))


def _engine(slots: int = 4, queue_limit: int = 64, turn_s: float = TURN_S, **more: Any) -> Engine:
    return Engine(AdapterAdmission("engine", slots, queue_limit, turn_s, **more))


async def _steady(engine: Engine, adapter: str, tokens: int, clients: int, seconds: float) -> None:
    """Keep `clients` requests for an adapter going for some seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    async def client() -> None:
        while loop.time() < until:
            await engine.answer(adapter, tokens)

    await asyncio.gather(*(client() for _ in range(clients)))


def test_answers_of_one_adapter_run_together_up_to_the_slots_and_the_rest_waits_its_turn() -> None:
    async def scene() -> None:
        engine = _engine(slots=3)
        await asyncio.gather(*(engine.answer("a", 10) for _ in range(5)))
        assert "a3" in engine.together
        assert "a4" not in engine.together
        assert engine.waits["a"][:3] == [0, 0, 0]
        assert all(wait > 0 for wait in engine.waits["a"][3:])
        assert engine.admission.switches == 0

    play(scene())


@pytest.mark.parametrize("tokens", [5, 60, 1000])
def test_a_lone_request_never_waits_longer_than_the_bound_under_a_steady_stream(tokens: int) -> None:
    async def scene() -> None:
        engine = _engine()
        steady = asyncio.create_task(_steady(engine, "a", tokens, 8, 60))
        for pause in (0.1, 0.9, 1.7, 3.3, 0.01, 5.0):
            await asyncio.sleep(pause)
            await engine.answer("b", 5)
        assert max(engine.waits["b"]) <= TURN_S + STEP_S
        await steady

    play(scene())


@pytest.mark.parametrize("adapters", [2, 5, 8, 16, 30])
def test_first_tokens_keep_the_bound_with_many_adapters_under_long_answers(adapters: int) -> None:
    async def scene() -> None:
        engine = _engine(queue_limit=1000)
        names = [f"adapter {n}" for n in range(adapters)]
        await asyncio.gather(*(_steady(engine, name, 300, 1, 60) for name in names))
        bound_s = max(TURN_S, 0.2 * adapters)  # as stated of engine.adapter_turn_s
        assert max(wait for name in names for wait in engine.waits[name]) <= bound_s + adapters * STEP_S

    play(scene())


def test_an_interrupted_answer_goes_on_and_loses_nothing() -> None:
    async def scene() -> None:
        engine = _engine(slots=1)
        await asyncio.gather(engine.answer("a", 500), engine.answer("b", 500))
        assert engine.said == {"a": 500, "b": 500}
        assert engine.admission.switches >= 4
        assert engine.admission.held == engine.admission.waiting == 0

    play(scene())


def test_an_adapter_at_work_alone_is_never_interrupted() -> None:
    async def scene() -> None:
        engine = _engine(slots=2)
        await asyncio.gather(*(engine.answer("a", 2000) for _ in range(2)))
        assert engine.admission.switches == 0

    play(scene())


def test_adapters_get_even_shares_however_many_requests_each_has() -> None:
    async def scene() -> None:
        engine = _engine(slots=1)
        await asyncio.gather(_steady(engine, "many", 100, 12, 200), _steady(engine, "one", 100, 1, 200))
        in_time = Counter(adapter for when, adapter in engine.steps if 20 < when < 200)
        assert 0.5 < in_time["one"] / in_time["many"] < 2  # not 1 to 12

    play(scene())


def test_an_answer_that_cannot_be_interrupted_is_waited_for_and_owed() -> None:
    async def scene() -> None:
        engine = _engine(slots=1)

        async def stubborn() -> None:
            for _ in range(6):
                await engine.answer("stubborn", 300, gives_way=False)

        await asyncio.gather(stubborn(), _steady(engine, "polite", 50, 2, 60))
        order = "".join(adapter[0] for _, adapter in engine.steps)
        assert "s" * 300 in order
        assert "p" * 50 in order

    play(scene())


def test_nobody_waits_for_more_than_one_answer_of_an_adapter_that_cannot_be_interrupted() -> None:
    async def scene() -> None:
        engine = _engine(slots=1)
        stubborn = [asyncio.create_task(engine.answer("a", 300, gives_way=False)) for _ in range(3)]
        await asyncio.sleep(0.5)
        await engine.answer("b", 5)
        assert engine.waits["b"][0] <= 300 * STEP_S
        assert sum(task.done() for task in stubborn) == 1
        await asyncio.gather(*stubborn)

    play(scene())


def test_a_full_queue_rejects_at_once_and_tells_when_to_come_back() -> None:
    async def scene() -> None:
        engine = _engine(slots=1, queue_limit=2)
        running = [asyncio.create_task(engine.answer("a", 50)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="1 at work, 2 waiting") as raised:
            await engine.answer("a", 50)
        assert raised.value.retry_after_s > 0
        await asyncio.gather(*running)
        await engine.answer("a", 5)

    play(scene())


def test_without_a_queue_there_is_room_for_what_runs() -> None:
    async def scene() -> None:
        engine = _engine(slots=2, queue_limit=0)
        running = [asyncio.create_task(engine.answer("a", 50)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await engine.answer("a", 50)
        await asyncio.gather(*running)

    play(scene())


def test_a_request_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    async def scene() -> None:
        engine = _engine(slots=1)
        first = asyncio.create_task(engine.answer("a", 100))
        waiting = [asyncio.create_task(engine.answer(adapter, 100)) for adapter in ("b", "a", "c")]
        await asyncio.sleep(0.1)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await first
        assert engine.admission.held == engine.admission.waiting == 0
        assert set(engine.said) == {"a"}
        await engine.answer("b", 5)

    play(scene())


def test_an_interrupted_answer_that_is_cancelled_lets_the_others_go_on() -> None:
    async def scene() -> None:
        engine = _engine(slots=1)
        long = asyncio.create_task(engine.answer("a", 1000))
        other = asyncio.create_task(engine.answer("b", 400))
        await asyncio.sleep(3)
        long.cancel()
        await asyncio.gather(long, other, return_exceptions=True)
        assert engine.said["b"] == 400
        assert engine.admission.held == 0

    play(scene())


def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_one_that_can_is_not() -> None:
    async def scene() -> None:
        engine = _engine(slots=1)
        for _ in range(5):
            await engine.answer("a", 100)  # 50 tokens a second, and answers of 100
        admission = engine.admission
        assert admission.estimate_s("a", 100) == pytest.approx(2.0, rel=0.1)
        busy = [asyncio.create_task(engine.answer("a", 100)) for _ in range(4)]
        await asyncio.sleep(0.01)
        assert admission.estimate_s("a", 100) == pytest.approx(10.0, rel=0.2)
        before = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineError, match=r"3\.0 s are left") as raised:
            async with admission.place("a", 100, budget_s=3.0):
                pass
        assert asyncio.get_running_loop().time() == before
        assert raised.value.retry_after_s == pytest.approx(7.0, rel=0.3)
        async with admission.place("a", 100, budget_s=60.0):
            pass
        await asyncio.gather(*busy)

    play(scene())


def test_nothing_is_refused_for_its_deadline_before_anything_is_known() -> None:
    async def scene() -> None:
        engine = _engine()
        assert engine.admission.estimate_s("a", 1000) == 0
        async with engine.admission.place("a", 1000, budget_s=0.001):
            pass

    play(scene())


def test_a_short_answer_is_expected_of_an_adapter_that_gives_short_answers() -> None:
    async def scene() -> None:
        engine = _engine()
        for _ in range(20):
            await engine.answer("terse", 10)
        async with engine.admission.place("terse", 4000, budget_s=5.0):
            pass

    play(scene())


def test_the_first_request_of_an_adapter_is_expected_to_be_as_long_as_those_of_others() -> None:
    async def scene() -> None:
        engine = _engine()
        for _ in range(5):
            await engine.answer("a", 200)  # 50 tokens a second
        engine.admission.tally("new")  # as a listing does
        with pytest.raises(DeadlineError, match=r"would need 4\.0 s"):
            async with engine.admission.place("new", 400, budget_s=3.0):
                pass
        async with engine.admission.place("new", 100, budget_s=3.0):  # at most
            pass

    play(scene())


def test_the_time_to_read_a_prompt_counts_but_for_what_a_cache_has() -> None:
    async def scene() -> None:
        engine = _engine()
        admission = engine.admission
        for _ in range(3):
            async with admission.place("a", 50) as place:
                await asyncio.sleep(2.0)
                place.read(200, 2.0)  # 100 tokens a second
                for _ in range(50):
                    await asyncio.sleep(STEP_S)
                    place.said(1)
                place.answered(Usage(200, 50, 0))
        assert admission.estimate_s("a", 50) == pytest.approx(1.0, rel=0.1)  # reading left out
        assert admission.estimate_s("a", 50, 800) == pytest.approx(9.0, rel=0.1)
        with pytest.raises(DeadlineError):
            async with admission.place("new", 50, budget_s=5.0, prompt_tokens=800):
                pass
        for _ in range(9):
            place.answered(Usage(200, 50, 200))  # three quarters were in a cache
        assert admission.estimate_s("a", 50, 800) == pytest.approx(3.0, rel=0.1)

    play(scene())


def test_trying_an_adapter_is_refused_by_no_limit_and_counts_in_no_figure() -> None:
    async def scene() -> None:
        engine = _engine(slots=1, queue_limit=0)
        long = asyncio.create_task(engine.answer("a", 300))
        await asyncio.sleep(0.5)
        async with engine.admission.place("new", 4, budget_s=0.0, probes=True) as place:
            assert place.queue_ms / 1e3 <= TURN_S + STEP_S
        await long
        speed = engine.admission.tokens_per_s
        async with engine.admission.place("new", 4, probes=True):
            await asyncio.sleep(10)
        assert engine.admission.tokens_per_s == speed

    play(scene())


def test_a_round_is_as_long_as_the_turn_only_while_others_wait() -> None:
    async def scene() -> None:
        engine = _engine(slots=1)
        async with engine.admission.place("a", 500) as place:
            assert place.round_tokens(500) == 500
            other = asyncio.create_task(engine.answer("b", 5))
            await asyncio.sleep(0)
            assert place.round_tokens(500) < 500
            place.gives_way = False
            assert place.round_tokens(500) == 500
        await other

    play(scene())


@pytest.mark.parametrize(
    ("turn_s", "others_begun", "to_come", "stops"),
    [
        (TURN_S, False, 8, False),
        (TURN_S, False, 9, True),
        (0.2, False, 2, False),
        (0.2, False, 3, True),
        (TURN_S, True, 16, False),
        (TURN_S, True, 17, True),
    ],
)
def test_a_round_that_is_nearly_done_is_not_interrupted(
    turn_s: float, others_begun: bool, to_come: int, stops: bool
) -> None:
    """An interruption takes the engine two steps; so long is waited, and longer where the turns are long or idle."""

    async def scene() -> None:
        engine = _engine(slots=1, turn_s=turn_s)
        if others_begun:
            other = asyncio.create_task(engine.answer("b", 500))
            await asyncio.sleep(0.1)
        async with engine.admission.place("a", 500) as place:
            if not others_begun:
                other = asyncio.create_task(engine.answer("b", 500))
                await asyncio.sleep(0)
            place.round_left = to_come
            place.said(1000)
            assert place.turn_is_over is stops
        await other

    play(scene())


def test_a_turn_that_is_over_stays_so_while_its_answers_give_way() -> None:
    async def scene() -> None:
        engine = _engine()
        answers = [asyncio.create_task(engine.answer("a", 500)) for _ in range(4)]
        await asyncio.sleep(1.0)
        answers.append(asyncio.create_task(engine.answer("b", 5)))
        while "b" not in engine.waits:
            await asyncio.sleep(0.01)
        # Two turns of a, each half of the time until b is due, less what 6 tokens take; then all give way within a step.
        assert engine.waits["b"][0] == pytest.approx(0.4 + 0.68, abs=0.03)
        await asyncio.gather(*answers)

    play(scene())


def test_turns_end_in_time_for_rounds_that_are_left_alone() -> None:
    """While others wait for a first token: answers that make the last tokens of their rounds keep the bound too."""

    async def scene() -> None:
        engine = _engine(slots=1)
        loop = asyncio.get_running_loop()
        async with engine.admission.place("a", 500) as place:
            begun = loop.time()
            other = asyncio.create_task(engine.answer("b", 5))
            await asyncio.sleep(0)
            place.round_left = 100
            while not place.turn_is_over:
                await asyncio.sleep(0.01)
            # The turn is one of the two before b's at most; 8 tokens are 0.16 s of it.
            assert loop.time() - begun == pytest.approx(TURN_S / 2 - 0.12, abs=0.02)
        await other

    play(scene())


# Slots of the engine


def test_an_adapter_keeps_its_slot_and_a_new_one_takes_a_slot_that_nobody_used() -> None:
    slots = EngineSlots(3)
    for name in ("a", "b"):
        slots.take(name, "prompt", name, set())
        slots.free(name)
    assert slots.take("a", "prompt", "x", set()).number == 0
    assert slots.take("b", "prompt", "y", set()).number == 1
    assert slots.take("c", "prompt", "z", set()).number == 2


def test_the_least_recently_used_slot_makes_room_and_the_best_prefix_is_found_again() -> None:
    slots = EngineSlots(2)
    for owner, text in (("x", "tell me of rivers"), ("y", "what is the time")):
        slots.take("a", text, owner, set())
    slots.free("x")
    slots.free("y")
    assert slots.take("a", "what is the weather", "z", set()).number == 1
    slots.free("z")
    assert slots.take("b", "tell me", "w", set()).number == 0


def test_answers_at_once_have_slots_side_by_side() -> None:
    slots = EngineSlots(6)
    for owner in range(6):
        assert slots.take("a", f"write about {owner}", owner, set()).number == owner
    for owner in (0, 1, 3, 5):  # 2 and 4 are at work
        slots.free(owner)
    assert slots.take("a", "write about 0", "x", set()).number == 3  # although slot 0 read the very same
    assert slots.take("a", "write about 0", "y", set()).number in {1, 5}


def test_another_adapter_gives_up_the_slot_beside_and_not_the_one_used_longest_ago() -> None:
    slots = EngineSlots(4)
    prompts = [f"{text} " * 200 for text in ("rivers", "trains", "letters", "maps")]
    for number in (0, 1, 2, 3):
        assert slots.take("b", prompts[number], number, set()).number == number
    for number in (0, 1, 2, 3):
        slots.free(number)
    for number in (1, 2):  # so 3 was used before them
        assert slots.take("b", prompts[number], number, set()).number == number
    for number in (1, 2):
        slots.free(number)
    assert slots.take("a", "prompt", "x", set()).number == 0
    assert slots.take("a", "prompt", "y", set()).number == 1


def test_a_long_prompt_is_found_again_away_from_the_others() -> None:
    slots = EngineSlots(3)
    prompts = [f"{text} " * 200 for text in ("rivers", "trains", "letters")]
    for owner, prompt in enumerate(prompts):
        slots.take("a", prompt, owner, set())
    slots.free(1)
    slots.free(2)
    assert slots.take("a", prompts[2], "x", set()).number == 2


def test_an_interrupted_answer_gives_its_slot_up_only_when_none_is_free() -> None:
    slots = EngineSlots(2)
    idle, running = object(), object()
    assert slots.take("a", "one", idle, set()).number == 0
    assert slots.take("a", "two", running, set()).number == 1
    assert slots.take("b", "three", "new", {id(idle)}).number == 0
    assert slots.held_by(idle) is None
    assert slots.held_by(running) is not None


def test_a_cache_that_can_be_moved_goes_to_the_slot_beside() -> None:
    slots, prompt = EngineSlots(5), "write about rivers " * 20
    for number in range(5):
        assert slots.take("ab"[number % 2], prompt, number, set()).number == number
    for number in (1, 2, 4):
        slots.free(number)
    assert slots.take("a", prompt, "x", set()).number in {2, 4}  # where it is
    slots.free("x")
    assert slots.take("a", prompt, "y", set(), len(prompt)).number == 1  # beside that of 0
    slots.free("y")
    # 3 waits for its next round: the slot beside is its, and it gets its cache back elsewhere.
    for owner in (1, 2):
        slots.take("a", prompt, owner, set(), len(prompt))
    assert slots.take("a", prompt, "z", {id(3)}, len(prompt)).number == 3
    assert slots.held_by(3) is None


def test_nobody_gives_up_a_slot_for_an_answer_under_the_same_adapter_while_one_is_free() -> None:
    slots, prompt = EngineSlots(5), "write about rivers " * 20
    for number in range(3):
        assert slots.take("a", prompt, number, set(), len(prompt)).number == number
    slots.take("b", prompt, "other", set())
    assert slots.take("a", prompt, "x", {id(0), id(1), id(2)}, len(prompt)).number == 4


# Figures


def test_speed_counts_time_at_work_only() -> None:
    speed = Speed()
    assert speed.per_s is None
    for begin in (0.0, 1000.0):
        speed.begin(begin)
        for step in range(1, 11):
            speed.note(5, begin + step * 0.1)
        speed.end(begin + 1.0)
    assert speed.per_s == pytest.approx(50)


def test_the_hit_rate_is_over_all_prompts_of_an_adapter() -> None:
    tally = Tally()
    assert tally.hit_rate is None
    tally.note(Usage(100, 20, 0))
    tally.note(Usage(100, 20, 90))
    assert tally.hit_rate == 0.45
    assert tally.usual_tokens == 20
