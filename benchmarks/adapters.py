"""Many adapters on one base: throughput, waits, memory, the cost of a switch, and of a cancelled answer.

    python benchmarks/adapters.py          # alone on the machine

Eight LoRA adapters of random numbers (rank 16, all attention and MLP weights), stored as `pointsman train` stores
them, over the shipped base, asked over gRPC of a `pointsman serve` of its own process. The decode step of one is
compared at the engine with that of the same numbers in F16, as other tools write them. The merged models are eight files: the
value projections of the base dequantised, those of an adapter added, and quantised as they were. A cancelled answer is timed at the engine's own list of slots.
"""

import argparse
import asyncio
import random
import shlex
import sys
import tempfile
import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from math import comb
from pathlib import Path

import httpx2
import numpy as np
from rich.progress import Progress

import report
from adapter_files import CONTEXT, RANK, write_adapter, write_merged, write_specialist
from own_server import base_for, served
from pointsman import AsyncClient
from pointsman.catalog.store import FileStore
from pointsman.client import constraints
from pointsman.generation.backend import Question
from pointsman.generation.engine_process import EngineProcess
from pointsman.generation.engine_spec import EngineSpec
from pointsman.settings import load
from pointsman.v1 import router_pb2
from pointsman.values.catalog import Artifact
from pointsman.values.request import Message, Role

ROOT = Path(__file__).parent.parent
ADAPTERS, CLIENTS = 8, 8
SUBJECTS = (
    "a lighthouse", "a night train", "a lost key", "an old bridge", "a market", "a snowstorm", "a violin", "a map",
)  # fmt: skip


@dataclass
class Answer:
    """times: of its pieces, on the clock of `perf_counter`."""

    ttft_s: float
    times: list[float]
    usage: router_pb2.Usage


@dataclass
class Load:
    """tokens_per_s: that arrived within the load's time; hit_rate: share of prompt tokens that a cache had."""

    tokens_per_s: float
    hit_rate: float


async def ask(client: AsyncClient, number: int, subject: str, tokens: int) -> Answer:
    sampling = router_pb2.Sampling(temperature=0, max_tokens=tokens)
    begun, times, usage = time.perf_counter(), [], router_pb2.Usage()
    prompt = f"Tell a very long and detailed tale about {subject}, its people and its weather."
    async for event in client.generate(prompt, constraints(specialist=f"s{number}"), sampling):
        kind = event.WhichOneof("event")
        if kind == "token":
            times.append(time.perf_counter())
        elif kind == "done":
            usage = event.done.usage
    ended = time.perf_counter()
    return Answer((times[0] if times else ended) - begun, times, usage)


async def load_of(client: AsyncClient, adapters: int, seconds: float, tokens: int, seed: int) -> Load:
    """Have eight clients each ask one of `adapters` at random, again and again."""
    until = time.perf_counter() + seconds
    answers: list[Answer] = []

    async def one(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        while time.perf_counter() < until:
            answers.append(await ask(client, draw.randrange(adapters), draw.choice(SUBJECTS), tokens))

    await asyncio.gather(*(one(number) for number in range(CLIENTS)))
    made = sum(
        a.usage.completion_tokens * np.mean([moment <= until for moment in a.times])
        for a in answers
        if a.times
    )
    prompts = sum(a.usage.prompt_tokens for a in answers)
    return Load(made / seconds, sum(a.usage.cached_tokens for a in answers) / prompts)


async def lone(client: AsyncClient, requests: int, tokens: int) -> list[float]:
    """Return the times to first token of a lone client of s1 while six clients keep s0 busy."""
    draw = random.Random(7)
    over = asyncio.Event()

    async def steady() -> None:
        while not over.is_set():
            await ask(client, 0, draw.choice(SUBJECTS), tokens)

    streams = [asyncio.create_task(steady()) for _ in range(6)]
    await asyncio.sleep(2)
    found = []
    for _ in range(requests):
        found.append((await ask(client, 1, draw.choice(SUBJECTS), 8)).ttft_s)
        await asyncio.sleep(draw.uniform(0, 3))
    over.set()
    await asyncio.gather(*streams)
    return found


async def switching(client: AsyncClient, rounds: int) -> tuple[float, float, float]:
    """Return the median time to first token of one client on one adapter, alternating, and a decode step."""
    same, other, steps = [], [], []
    for _ in range(2):
        for number in (0, 1):
            await ask(client, number, SUBJECTS[0], 8)
    for _ in range(rounds):
        for number in (0, 0):
            answer = await ask(client, number, SUBJECTS[0], 8)
        same.append(answer.ttft_s)
        steps += list(np.diff(answer.times))
        await ask(client, 1, SUBJECTS[0], 8)
        other.append((await ask(client, 0, SUBJECTS[0], 8)).ttft_s)
    return float(np.median(same)), float(np.median(other)), float(np.median(steps))


async def resident(client: AsyncClient) -> int:
    """Return the bytes that all engines hold, each once, after one answer of each specialist."""
    for number in range(ADAPTERS):
        await ask(client, number, SUBJECTS[0], 4)
    listed = (await client.list_specialists()).specialists
    by_engine = {
        (s.figures.engine, s.specialist.base.sha256): s.figures.resident_bytes
        for s in listed
        if s.HasField("figures")
    }
    return sum(by_engine.values())


@asynccontextmanager
async def engine_of(base: Path, adapters: list[Path]):
    settings = load().engine
    spec = EngineSpec("llama_cpp", base, tuple(adapters), CONTEXT, settings.slots, settings.threads)
    engine = EngineProcess(spec, settings)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run())
        await engine.settled()
        try:
            yield engine
        finally:
            engine.stop()


def tale(tokens: int, scales: tuple[float, ...]) -> Question:
    said = (Message(Role.USER, "Tell a very long tale about a map."),)
    return Question(said, tokens, 0.0, 1.0, adapters=scales or None)


async def steps_of(base: Path, adapters: list[Path], answers: int, at_once: int = 1) -> list[float]:
    """Return the times between tokens of answers under the first adapter, so many at once, and again."""
    scales = tuple(float(i == 0) for i in range(len(adapters)))

    async def one() -> list[float]:
        async with engine.admission.place("a", 64) as place:
            return [time.perf_counter() async for _ in engine.stream(tale(64, scales), place)]

    steps: list[float] = []
    async with engine_of(base, adapters) as engine:
        for _ in range(answers):
            for times in await asyncio.gather(*(one() for _ in range(at_once))):
                steps += list(np.diff(times[:-1]))
    return steps


def without_cost(step: dict[int, float]) -> float:
    """Return the tokens/s of eight clients that ask eight adapters at random, to those of one adapter.

    As if turns cost nothing, prompts were read in no time, and every adapter that is asked had the same time: its
    clients are the i of eight that drew it. step: of so many answers at once, in seconds
    """
    at_once = {i: min(i, max(step)) for i in range(1, CLIENTS + 1)}
    share = {i: comb(CLIENTS, i) * (1 / ADAPTERS) ** i * (1 - 1 / ADAPTERS) ** (CLIENTS - i) for i in at_once}
    rate = sum(share[i] * n / step[n] for i, n in at_once.items()) / sum(share.values())
    return rate * step[max(step)] / max(step)


async def cancelling(base: Path, adapters: list[Path], times: int) -> tuple[list[float], list[float], float]:
    """Return the seconds from closing a stream to its slot last seen busy, and to it seen free, and a decode step.

    The engine tells of its slots between two steps only, so what is between the two is not known.
    """
    question = tale(200, (1.0,) + (0.0,) * 7)
    busy, free, steps = [], [], []
    async with engine_of(base, adapters) as engine:
        keys = {"Authorization": f"Bearer {engine._key}"}
        async with httpx2.AsyncClient(base_url=engine.url, headers=keys, trust_env=False) as http:
            for i in range(times):
                seen = []
                async with (
                    engine.admission.place("a", 200) as place,
                    aclosing(engine.stream(question, place)) as stream,
                ):
                    async for _ in stream:
                        seen.append(time.perf_counter())
                        if len(seen) == 12 + i % 5:
                            break
                    await asyncio.sleep(random.Random(i).random() * 0.02)
                    closed = time.perf_counter()
                seen_busy = 0.0
                while any(slot["is_processing"] for slot in (await http.get("/slots")).json()):
                    seen_busy = time.perf_counter() - closed
                busy.append(seen_busy)
                free.append(time.perf_counter() - closed)
                steps += list(np.diff(seen))
    return busy, free, float(np.median(steps))


async def run(
    arguments: argparse.Namespace, scratch: Path, base: Path, shared: dict, progress: Progress
) -> dict:
    task = progress.add_task("adapters", total=arguments.rounds * 4 + 7)
    one, merged = scratch / "one-base", scratch / "merged"
    for number in range(ADAPTERS):
        one.mkdir(exist_ok=True)
        sha256 = write_adapter(one / f"a{number}.gguf", base, number)
        write_specialist(one, number, shared, {"uri": f"file:a{number}.gguf", "sha256": sha256})
    progress.advance(task)
    figures: dict = {"loads": {n: [] for n in (1, 2, 4, 8)}}
    with served(one, scratch) as address:
        async with AsyncClient(address, timeout_s=600) as client:
            figures["one base"] = await resident(client)
            for number in range(arguments.rounds):
                order = (1, 2, 4, 8) if number % 2 else (8, 4, 2, 1)
                for adapters in order:
                    found = await load_of(client, adapters, arguments.seconds, arguments.tokens, number)
                    figures["loads"][adapters].append(found)
                    progress.advance(task)
            figures["one base, loaded"] = await resident(client)
            figures["lone"] = await lone(client, arguments.requests, arguments.long_tokens)
            progress.advance(task)
            figures["switch"] = await switching(client, arguments.switches)
            progress.advance(task)
    figures["cancel"] = await cancelling(
        base, [one / f"a{n}.gguf" for n in range(ADAPTERS)], arguments.cancels
    )
    progress.advance(task)
    f16 = scratch / "f16.gguf"
    write_adapter(f16, base, 0, f16=True)
    kinds = {"no adapter": [], "an adapter as stored": [one / "a0.gguf"], "the same in F16": [f16]}
    figures["steps"] = {kind: [] for kind in kinds}
    figures["at once"] = {n: [] for n in range(2, load().engine.slots + 1)}
    for number in range(4):
        for kind in list(kinds)[:: -1 if number % 2 else 1]:
            figures["steps"][kind] += await steps_of(base, kinds[kind], 3)
        for n in figures["at once"]:
            figures["at once"][n] += await steps_of(base, [one / "a0.gguf"], 1, n)
    progress.advance(task)
    if arguments.merged:
        for number in range(ADAPTERS):
            merged.mkdir(exist_ok=True)
            sha256 = write_merged(merged / f"m{number}.gguf", base, number)
            write_specialist(merged, number, {"uri": f"file:m{number}.gguf", "sha256": sha256}, None)
        progress.advance(task)
        with served(merged, scratch) as address:
            async with AsyncClient(address, timeout_s=600) as client:
                figures["merged"] = await resident(client)
                for number in range(arguments.rounds):
                    await load_of(client, ADAPTERS, arguments.seconds, arguments.tokens, number)
                figures["merged, loaded"] = await resident(client)
        progress.advance(task)
    return figures


def body_of(figures: dict, arguments: argparse.Namespace) -> str:
    settings = load().engine
    single = report.percentile([one.tokens_per_s for one in figures["loads"][1]], 50)
    rates = []
    for adapters, found in figures["loads"].items():
        rate = report.percentile([one.tokens_per_s for one in found], 50)
        hits = report.percentile([one.hit_rate for one in found], 50)
        rates.append([str(adapters), f"{rate:.1f}", f"{rate / single:.2f}", f"{hits:.0%}"])
    alone = {kind: report.percentile(steps, 50) for kind, steps in figures["steps"].items()}
    stored = alone["an adapter as stored"]
    together = {1: stored} | {n: report.percentile(steps, 50) for n, steps in figures["at once"].items()}
    same, other, step = figures["switch"]
    busy, freed, cancel_step = figures["cancel"]
    memory = []
    for when, suffix in (("after one answer of each", ""), ("after the load", ", loaded")):
        shared, merged = figures[f"one base{suffix}"], figures.get(f"merged{suffix}")
        memory += [
            [f"resident memory of 8 adapters on one base, {when}, MiB", f"{shared / 2**20:.0f}", ""],
            [f"resident memory of 8 merged models, {when}, MiB", f"{merged / 2**20:.0f}" if merged else report.NOTHING, ""],
            ["the one to the other", f"{shared / merged:.3f}" if merged else report.NOTHING, "≤ 0.25"],
        ]  # fmt: skip
    rows = [
        ["tokens/s with 8 adapters to one adapter", rates[-1][2], "≥ 0.8"],
        [f"TTFT p50 of a lone request for B under a steady stream for A, s (n = {len(figures['lone'])})",
         f"{report.percentile(figures['lone'], 50):.2f}", ""],
        ["TTFT p99 of the same, s", f"{report.percentile(figures['lone'], 99):.2f}", "≤ 2.5"],
        *memory,
        *([f"decode step of one answer, the engine asked alone, {kind}, ms (to an adapter as stored)",
           f"{found * 1e3:.1f} ({found / stored:.2f})", ""] for kind, found in alone.items()),
        [f"a token of {', '.join(map(str, together))} answers at once under one adapter, the engine asked alone, ms",
         ", ".join(f"{step * 1e3 / n:.1f}" for n, step in together.items()), ""],
        ["from these: tokens/s with 8 adapters to one, if turns and prompts took no time", f"{without_cost(together):.2f}", ""],
        ["decode step through `Generate`, ms", f"{step * 1e3:.1f}", ""],
        ["switch between two adapters, one client, ms of TTFT", f"{(other - same) * 1e3:.1f}", f"≤ {step * 1e3:.1f}"],
        *(
            [f"cancelled stream: slot last seen busy, seen free after, p{p}, ms",
             f"{report.percentile(busy, p) * 1e3:.0f}, {report.percentile(freed, p) * 1e3:.0f}", aim]
            for p, aim in ((50, ""), (99, f"≤ {cancel_step * 1e3 + 20:.0f}"))
        ),
    ]  # fmt: skip
    return (
        f"{report.versions('pointsman', 'grpcio', 'xllamacpp')}; SmolLM2-135M-Instruct Q4_1, {ADAPTERS} adapters of "
        f"rank {RANK} over all attention and MLP weights, random numbers, stored as `pointsman train` stores them; {settings.threads} engine thread(s), "
        f"{settings.slots} slots and up to {settings.spare_slots} spare ones of {CONTEXT} tokens, swap_mib {settings.swap_mib}, "
        f"adapter_turn_s {settings.adapter_turn_s:g}.\n{CLIENTS} clients ask again as soon as they are answered, each "
        f"time one of the adapters at random; tokens are counted that arrive within the time; answers of up to {arguments.tokens} tokens, under A of up to "
        f"{arguments.long_tokens}; {arguments.rounds} round(s) of {arguments.seconds:g} s, medians. The merged models "
        "are eight base files, each with the value projections of an adapter merged in, one engine each with the same "
        "slots; the load is all rounds, of eight adapters for the merged ones.\n\n"
        + report.table(["adapters asked", "tokens/s", "to one adapter", "prompt tokens from a cache"], rates)
        + "\n\n"
        + report.table(["", "measured", "aim"], rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of each load")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer of the mixed load")
    parser.add_argument("--long-tokens", type=int, default=256, help="longest answer of the steady stream")
    parser.add_argument("--requests", type=int, default=100, help="of the lone client")
    parser.add_argument("--switches", type=int, default=40)
    parser.add_argument("--cancels", type=int, default=200)
    parser.add_argument("--merged", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "adapters.md")
    arguments = parser.parse_args()
    specialists = FileStore(ROOT / "intents", ROOT / "specialists").load().specialists
    artifact: Artifact = next(s for s in specialists if s.name == "general").base
    with tempfile.TemporaryDirectory() as name, Progress() as progress:
        scratch = Path(name)
        base = base_for(scratch, artifact)
        shared = {"uri": artifact.uri, "sha256": artifact.sha256}
        figures = asyncio.run(run(arguments, scratch, base, shared, progress))
    body = body_of(figures, arguments)
    report.write(
        arguments.out,
        "Adapters: many on one base",
        body,
        shlex.join(["python", "benchmarks/adapters.py", *sys.argv[1:]]),
    )
    print(body)


if __name__ == "__main__":
    main()
