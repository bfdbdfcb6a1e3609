"""Generate over gRPC beside the engine's own HTTP API: time to first token, and tokens a second.

    make bench                  # or: python benchmarks/generate.py

Two engines of one kind, model, adapters (none applied) and settings run: one under a pointsman server of its own process,
one asked directly over HTTP by this process, with the same messages and sampling. Rounds alternate; while one is asked,
the other is idle. Our side routes, translates and logs; the direct side does nothing but read. One kind of prompt is
answered in a sentence, where reading it is half of the time; the other as long as answers may be.
"""

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx2
from rich.progress import Progress

import report
from pointsman.artifacts.store import ArtifactStore
from pointsman.catalog.store import FileStore
from pointsman.generation.engine_process import EngineProcess
from pointsman.generation.engine_spec import EngineSpec
from pointsman.generation.prompt import local_question
from pointsman.settings import load
from pointsman.v1 import router_pb2, router_pb2_grpc
from pointsman.values.request import Message, Request, Role, Sampling
from route import pointsman

ROOT = Path(__file__).parent.parent
STREAMS = (1, 4)
PROMPTS = {
    "short": "Round {number}: invent a dreamy tale about {subject}, very long.",
    "long": "Write chapter {number} of a novel about {subject}, with dialogue.",
}
"""How this model answers them, not what they ask for."""
SUBJECTS = (
    "a lighthouse", "a night train", "a lost key", "an old bridge", "a market", "a snowstorm", "a violin", "a map",
    "a garden", "a fishing boat", "a clock tower", "a long walk", "a letter", "a small dog", "a desert", "a bakery",
)  # fmt: skip


@dataclass
class Answer:
    ttft_ms: float
    tokens: int
    seconds: float


@asynccontextmanager
async def engine(specialists):
    settings = load()
    store = ArtifactStore(settings.paths.models, ROOT / "specialists")
    spec = EngineSpec(
        "llama_cpp",
        store.fetch(specialists[0].base),
        tuple(
            store.fetch(s.adapter.artifact) for s in specialists if s.adapter
        ),  # as ours has; none is applied
        max(s.context_tokens for s in specialists),
        settings.engine.slots,
        settings.engine.threads,
    )
    process = EngineProcess(spec, settings.engine)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(process.run())
        await process.settled()
        try:
            yield process
        finally:
            process.stop()


async def ask_pointsman(stub, prompt: str, max_tokens: int) -> Answer:
    request = router_pb2.GenerateRequest(
        messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content=prompt)],
        constraints=router_pb2.Constraints(tier=router_pb2.TIER_LOCAL),
        sampling=router_pb2.Sampling(temperature=0, max_tokens=max_tokens),
    )
    begun = time.perf_counter()
    first = None
    async for event in stub.Generate(request):
        kind = event.WhichOneof("event")
        if kind == "token":
            first = first or time.perf_counter()
        elif kind == "done":
            tokens = event.done.usage.completion_tokens
    return Answer((first - begun) * 1e3, tokens, time.perf_counter() - begun)


async def prompts_for(stub, kind: str, number: int, count: int) -> list[str]:
    """Return prompts that no intent is near: they go to `general`, which both engines serve."""
    found: list[str] = []
    for i in range(number, number + len(SUBJECTS)):
        prompt = PROMPTS[kind].format(number=number + 1, subject=SUBJECTS[i % len(SUBJECTS)])
        request = router_pb2.RouteRequest(
            messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content=prompt)],
            constraints=router_pb2.Constraints(tier=router_pb2.TIER_LOCAL),
        )
        if (await stub.Route(request)).decision.specialist == "general":
            found.append(prompt)
        if len(found) == count:
            return found
    raise SystemExit(f"too few of the {kind} prompts are far from all intents; choose others")


async def ask_engine(client: httpx2.AsyncClient, body: dict) -> Answer:
    begun = time.perf_counter()
    first = None
    tokens = 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
            elif first is None and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.perf_counter()
    return Answer((first - begun) * 1e3, tokens, time.perf_counter() - begun)


async def run(arguments: argparse.Namespace, port: int, progress: Progress):
    specialists = FileStore(ROOT / "intents", ROOT / "specialists").load().specialists
    general = next(s for s in specialists if s.name == "general")
    answers: dict[tuple[str, int, str], list[Answer]] = defaultdict(list)
    rates: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    async with (
        engine(specialists) as direct,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        httpx2.AsyncClient(
            base_url=direct.url, headers={"Authorization": f"Bearer {direct._key}"}, timeout=120, trust_env=False,
            limits=httpx2.Limits(max_keepalive_connections=0),  # as we do: the engine closes idle connections
        ) as client,
    ):  # fmt: skip
        stub = router_pb2_grpc.RouterServiceStub(channel)

        async def both(name: str, prompt: str) -> Answer:
            if name == "pointsman":
                return await ask_pointsman(stub, prompt, arguments.tokens)
            request = Request((Message(Role.USER, prompt),), sampling=Sampling(0.0, None, arguments.tokens))
            question = local_question(request, general, None)
            body = {
                "messages": [{"role": str(m.role), "content": m.content} for m in question.messages],
                "max_tokens": question.max_tokens, "temperature": 0, "top_p": question.top_p,
                "stream": True, "stream_options": {"include_usage": True},
            }  # fmt: skip
            return await ask_engine(client, body)

        rounds = [
            (number, streams, kind)
            for number in range(arguments.rounds * max(STREAMS))
            for streams in STREAMS
            for kind in PROMPTS
            if number % streams == 0  # as many answers with one stream as with several
        ]
        task = progress.add_task("rounds", total=len(rounds) * 2 + 2)
        for name in ("engine", "pointsman"):
            await both(name, "Hello, invent a tale about a warm-up.")
            progress.advance(task)
        for number, streams, kind in rounds:
            prompts = await prompts_for(stub, kind, number, streams)
            for name in ("engine", "pointsman") if number // streams % 2 else ("pointsman", "engine"):
                begun = time.perf_counter()
                found = await asyncio.gather(*(both(name, prompt) for prompt in prompts))
                rate = sum(a.tokens for a in found) / (time.perf_counter() - begun)
                rates[name, streams, kind].append(rate)
                answers[name, streams, kind] += found
                progress.advance(task)
    return answers, rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=8, help="with the most streams; with one, as many answers"
    )
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "generate.md")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        Progress() as progress,
        pointsman(ROOT / "intents", Path(name)) as port,
    ):
        answers, rates = asyncio.run(run(arguments, port, progress))
    rows = []
    for kind in PROMPTS:
        for streams in STREAMS:
            direct = report.percentile(rates["engine", streams, kind], 50)
            for name in ("engine", "pointsman"):
                found = answers[name, streams, kind]
                ttft = [a.ttft_ms for a in found]
                rate = report.percentile(rates[name, streams, kind], 50)
                rows.append([
                    {"engine": "engine's own HTTP API", "pointsman": "pointsman Generate"}[name],
                    f"{kind}, {report.percentile([a.tokens for a in found], 50):.0f} tokens", str(streams),
                    f"{report.percentile(ttft, 50):.0f}", f"{report.percentile(ttft, 99):.0f}",
                    f"{rate:.1f}", f"{rate / direct:.3f}",
                ])  # fmt: skip
    headers = ["", "answers", "streams", "TTFT p50 ms", "TTFT p99 ms", "tokens/s", "tokens/s to engine's"]
    settings = load()
    body = (
        f"{report.versions('pointsman', 'grpcio', 'xllamacpp', 'openai')}; SmolLM2-135M-Instruct Q4_1, "
        f"{settings.engine.threads} engine thread(s), {settings.engine.slots} slots.\n"
        f"{arguments.rounds} alternating rounds with {max(STREAMS)} streams, {arguments.rounds * max(STREAMS)} with one; answers of up to {arguments.tokens} tokens; tokens/s is all tokens of a "
        "round over its wall time, prompt processing included; medians over rounds.\n\n"
        + report.table(headers, rows)
    )
    report.write(
        arguments.out,
        "Generate: beside the engine asked directly",
        body,
        shlex.join(["python", "benchmarks/generate.py", *sys.argv[1:]]),
    )
    print(body)


if __name__ == "__main__":
    main()
