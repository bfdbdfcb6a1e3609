"""Route over gRPC: latency and throughput, beside the bare encoder and aurelio semantic-router.

    make bench                  # or: python benchmarks/route.py --peer-python .venv-peers/bin/python

Each server is a process of its own; this process is the load. Rounds alternate (encoder, pointsman,
semantic-router, encoder, …), so that what the machine does meanwhile meets all of them alike. The encoder
weights are the same for all; semantic-router runs them in its own HuggingFaceEncoder, and once more in our
encoder, which is more than it ships. A gRPC server that does nothing but encode shows the least that any
server on this library can take (benchmarks/encode_server.py). With --data, a second catalog holds the CLINC150
training set: 15,000 exemplars.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import yaml
from rich.progress import Progress

import report
from corpora import CLINC, check_data, read_clinc
from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.build import TOKENIZER, default_graph
from pointsman.embedding.onnx_encoder import OnnxEncoder
from pointsman.embedding.weights import default_weights
from pointsman.host.logs import configure_logs
from pointsman.host.serve import open_core
from pointsman.settings import load
from pointsman.v1 import router_pb2, router_pb2_grpc
from pointsman.values.request import Message, Request, Role

ROOT = Path(__file__).parent.parent
CLIENTS = (1, 8, 64)
OURS, GIVEN, OWN = "pointsman", "semantic-router, given our encoder", "semantic-router, its own encoder"
PEERS = (GIVEN, OWN)
FLOOR = "a server that only encodes"


@contextmanager
def pointsman(intents: Path, scratch: Path, **settings: str):
    log = scratch / f"pointsman{len(list(scratch.glob('pointsman*.log')))}.log"
    environment = os.environ | {
        "POINTSMAN_PATHS__INTENTS": str(intents),
        "POINTSMAN_PATHS__SPECIALISTS": str(ROOT / "specialists"),
        "POINTSMAN_SERVER__ADDRESS": "127.0.0.1:0",
        "POINTSMAN_SERVER__METRICS_ADDRESS": "",
        "POINTSMAN_LOG__FORMAT": "json",
        "POINTSMAN_LEDGER__URL": f"sqlite:///{scratch / 'ledger.db'}",
        **settings,
    }
    with log.open("w") as sink:
        process = subprocess.Popen([sys.executable, "-m", "pointsman", "serve"], env=environment, stderr=sink)
    try:
        while True:
            ready = [line for line in log.read_text().splitlines() if '"server.ready"' in line]
            if ready:
                yield json.loads(ready[0])["port"]
                return
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def semantic_router(python: Path, intents: Path, texts: Path, *encoder: str):
    script = str(ROOT / "benchmarks" / "aurelio_server.py")
    command = [str(python), script, "--intents", str(intents), "--texts", str(texts), *encoder]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "SEMANTIC_ROUTER_LOG_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    with started(command, environment) as said:
        yield said


@contextmanager
def started(command: list[str], environment: dict[str, str]):
    """Start a server that says its port as JSON, and ends with its standard input."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        line = next((line for line in process.stdout if line.startswith("{")), None)
        if line is None:
            raise SystemExit(f"{command[1]} did not start")
        yield json.loads(line)
    finally:
        process.stdin.close()
        process.wait()


async def in_process(intents: Path, texts: list[str]) -> list[float]:
    """Return the time of each decision in ms, without gRPC."""
    settings = load(paths={"intents": intents, "specialists": ROOT / "specialists"}, log={"level": "error"})
    configure_logs(settings.log)
    times = []
    async with open_core(settings, engines=False) as core:
        for text in texts:
            begun = time.perf_counter()
            await core.answers.route(Request((Message(Role.USER, text),)))
            times.append((time.perf_counter() - begun) * 1e3)
    return times


async def load_server(port: int, texts: list[str], clients: int, requests: int) -> tuple[list[float], float]:
    """Return the latency of each request in ms, and requests a second."""
    latencies: list[float] = []
    pending = iter(range(requests))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)

        async def client() -> None:
            for i in pending:
                message = router_pb2.Message(role=router_pb2.ROLE_USER, content=texts[i % len(texts)])
                begun = time.perf_counter()
                await stub.Route(router_pb2.RouteRequest(messages=[message]))
                latencies.append((time.perf_counter() - begun) * 1e3)

        await stub.Route(router_pb2.RouteRequest(messages=[router_pb2.Message(role=2, content="warm up")]))
        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return latencies, requests / (time.perf_counter() - begun)


def bare(encoder: OnnxEncoder, texts: list[str]) -> list[float]:
    times = []
    for text in texts:
        begun = time.perf_counter()
        encoder.encode([text])
        times.append((time.perf_counter() - begun) * 1e3)
    return times


def write_intent(folder: Path, name: str, exemplars: list[str]) -> None:
    """Write an intent; a reader sees the old file or the new one."""
    fields = {"name": name, "target": "general", "exemplars": list(dict.fromkeys(exemplars))}
    whole = folder / f".{name}"
    whole.write_text(yaml.safe_dump(fields, sort_keys=False))
    whole.replace(folder / f"{name}.yaml")


def clinc_intents(data: Path, folder: Path, intents: int = 150, each: int = 100) -> None:
    """Write intents of CLINC150's training set; beyond its 150, several share what it has of one."""
    by_intent = defaultdict(list)
    for text, intent in read_clinc(data)["train"]:
        by_intent[intent].append(text.strip())
    folder.mkdir()
    slices = [(name, texts[i : i + each]) for i in range(0, 100, each) for name, texts in by_intent.items()]
    for i, (name, texts) in enumerate(slices[:intents]):
        write_intent(folder, f"{name.lower()}_{i}", texts)


def measure(
    intents: Path, texts: list[str], arguments: argparse.Namespace, scratch: Path, progress: Progress
):
    """Return latencies in ms and requests a second by server and clients, and times without gRPC."""
    settings = load()
    store = ArtifactStore(settings.paths.models, ROOT / "specialists")
    model, tokenizer = default_graph(store), store.fetch(TOKENIZER)
    encoder = OnnxEncoder(model, tokenizer, 1)
    texts_file = scratch / "texts.json"
    texts_file.write_text(json.dumps(texts))
    encoders = {
        GIVEN: ("--model", str(model), "--tokenizer", str(tokenizer)),
        OWN: ("--huggingface", str(default_weights(store))),
    }
    latencies: dict[tuple[str, int], list[float]] = defaultdict(list)
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    alone = {OURS: asyncio.run(in_process(intents, texts))}
    with ExitStack() as servers:
        ports = {OURS: servers.enter_context(pointsman(intents, scratch))}
        floor = [sys.executable, str(ROOT / "benchmarks" / "encode_server.py"), *encoders[GIVEN]]
        ports[FLOOR] = servers.enter_context(started(floor, dict(os.environ)))["port"]
        for name in arguments.peers:
            peer = semantic_router(arguments.peer_python, intents, texts_file, *encoders[name])
            said = servers.enter_context(peer)
            ports[name], alone[name] = said["port"], said["in_process_ms"]
        task = progress.add_task(intents.name, total=arguments.rounds)
        for _ in range(arguments.rounds):
            latencies["encoder", 1] += bare(encoder, texts)
            for clients in CLIENTS:
                for name, port in ports.items():
                    if name == FLOOR and clients > 1:  # it has no thread for more
                        continue
                    requests = len(texts) if clients == 1 else arguments.requests
                    ms, rate = asyncio.run(load_server(port, texts, clients, requests))
                    latencies[name, clients] += ms
                    rates[name, clients].append(rate)
            progress.advance(task)
    return latencies, rates, alone


def render(title: str, latencies, rates, alone: dict[str, list[float]]) -> str:
    p50 = {key: report.percentile(ms, 50) for key, ms in latencies.items()}
    rate = {key: report.percentile(values, 50) for key, values in rates.items()}
    encoder = p50["encoder", 1]
    p99 = f"{report.percentile(latencies['encoder', 1], 99):.2f}"
    rows = [["bare encoder, in process", "1", f"{encoder:.2f}", p99, report.NOTHING, "1.00"]]
    for name, times in alone.items():
        ms = report.percentile(times, 50)
        p99 = f"{report.percentile(times, 99):.2f}"
        rows.append([f"{name}; in process", "1", f"{ms:.2f}", p99, report.NOTHING, f"{ms / encoder:.2f}"])
    for clients in CLIENTS:
        for name in (*((FLOOR,) if clients == 1 else ()), *alone):
            key = (name, clients)
            ratio = f"{p50[key] / encoder:.2f}" if clients == 1 else report.NOTHING
            p99 = f"{report.percentile(latencies[key], 99):.2f}"
            rows.append(
                [f"{name}; over gRPC", str(clients), f"{p50[key]:.2f}", p99, f"{rate[key]:.0f}", ratio]
            )
    table = report.table(["", "clients", "p50 ms", "p99 ms", "requests/s", "p50 / encoder"], rows)
    ahead = report.table(
        ["ahead of", "clients", "p50", "throughput"],
        [
            [name, str(c), f"{p50[name, c] / p50[OURS, c]:.2f}", f"{rate[OURS, c] / rate[name, c]:.2f}"]
            for name in (OWN, GIVEN)
            if name in alone
            for c in CLIENTS
        ],
    )
    note = "Over gRPC, as ratios of medians; above 1 pointsman is ahead:"
    least = (
        f"p50 with 1 client over that of a gRPC server that only encodes: {p50[OURS, 1] / p50[FLOOR, 1]:.2f}."
    )
    return f"## {title}\n\n{table}\n\n{least}\n\n{note}\n\n{ahead}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", type=Path, default=ROOT / ".venv-peers" / "bin" / "python")
    parser.add_argument(
        "--data", type=Path, help="folder with clinc150/data_full.json (clinc/oos-eval on GitHub)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=600, help="a round, with 8 and 64 clients")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "route.md")
    arguments = parser.parse_args()
    if arguments.data:
        check_data(parser, arguments.data, CLINC)
    arguments.peers = PEERS
    shipped = ROOT / "intents"
    texts = [
        text
        for path in sorted(shipped.glob("*.yaml"))
        for text in yaml.safe_load(path.read_text())["exemplars"]
    ]
    random.Random(0).shuffle(texts)
    texts = texts[:300]
    words = report.percentile([len(text.split()) for text in texts], 50)
    sections, rounds = [], arguments.rounds
    with tempfile.TemporaryDirectory() as name, Progress() as progress:
        scratch = Path(name)
        sections.append(render("Shipped intents", *measure(shipped, texts, arguments, scratch, progress)))
        if arguments.data:
            # A search over 15,000 exemplars takes semantic-router tens of milliseconds: fewer requests, and
            # its own, slower encoder is left out.
            arguments.peers, arguments.rounds, arguments.requests = (GIVEN,), min(2, arguments.rounds), 150
            clinc_intents(arguments.data, scratch / "clinc150")
            found = measure(scratch / "clinc150", texts[:150], arguments, scratch, progress)
            sections.append(render("CLINC150 training set: 15,000 exemplars", *found))
    body = (
        f"{report.versions('pointsman', 'grpcio', 'onnxruntime', 'faiss-cpu')}; semantic-router 1.1.1 on the same weights.\n"
        f"{len(texts)} prompts, median {words:.0f} words; {rounds} alternating rounds (2 at most with 15,000 exemplars); encoder and BLAS on one thread;\n"
        "server, load and encoder share the cores.\n\n" + "\n".join(sections)
    )
    command = "python benchmarks/route.py" + (" --data DATA" if arguments.data else "")
    if rounds != parser.get_default("rounds"):
        command += f" --rounds {rounds}"
    report.write(arguments.out, "Route: latency and throughput", body, command)
    print(body)


if __name__ == "__main__":
    main()
