"""The cascade on the three shipped specialists: what confidence is worth, and what escalating buys.

    python benchmarks/keep_out.py --data DATA --out OUT
    python benchmarks/twins.py --data OUT/train --name sql --out OUT/twins
    python benchmarks/cascade.py --data DATA --validation OUT/validation --twins OUT/twins

DATA holds {support,slots,sql}_{train,test}.jsonl; of the training rows, keep_out.py draws those that no adapter was
trained on, {support,slots,sql}.jsonl. Curves and thresholds are fitted on these, and curves on the answers of twins
where there are any; the test files are read once, for the table.

No large model is to be had, so the cloud is a SIMULATION: a real OpenAI-compatible server on loopback that
answers with the gold answer, and with a wrong one for a stated share of prompts. In `accuracy` by escalated share
it is counted as right that often; in `served` it is really asked, over HTTP, by a pointsman server that is asked
over gRPC.
"""

import argparse
import asyncio
import hashlib
import json
import tempfile
import threading
from contextlib import aclosing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.progress import Progress

import report
from pointsman import AsyncClient
from pointsman.catalog.cascade_file import cascade_json
from pointsman.client import constraints, said
from pointsman.host.cascade import collect, read_known
from pointsman.host.logs import configure_logs
from pointsman.host.offline import load_catalog
from pointsman.host.serve import open_core
from pointsman.review.cascade import SHARES, figures_on, fit_cascade, read_answers
from pointsman.service.server import GrpcServer
from pointsman.settings import load
from pointsman.v1 import router_pb2

ROOT = Path(__file__).parent.parent
TASKS = {"support": "support_triage", "slots": "slot_filling", "sql": "text_to_sql"}
AIM = {"auroc": 0.87, "support": 0.99}


@contextmanager
def gold_cloud(gold, error_rate):
    """Serve chat completions that are the gold answer, but for `error_rate` of the prompts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = next((m["content"] for m in reversed(body["messages"]) if m["content"] in gold), None)
            answer = "unknown prompt" if asked is None else gold[asked]
            if asked is not None and _falls(asked, error_rate):
                answer = f"{answer} or so"
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            for i in range(0, len(answer), 4):
                self._send({"choices": [_choice({"content": answer[i : i + 4]}, None)]})
            self._send({"choices": [_choice({}, "stop")]})
            self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, chunk):
            whole = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "gold", **chunk}
            self.wfile.write(b"data: " + json.dumps(whole).encode() + b"\n\n")
            self.wfile.flush()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _choice(delta, finish):
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _falls(text, share):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) < share * 2**32


def settings_of(arguments, cascade, **more):
    return load(
        paths={
            "intents": ROOT / "intents",
            "specialists": arguments.specialists,
            "rules": cascade.parent / "rules.yaml",
            "calibration": cascade.parent / "calibration.json",
            "difficulty": cascade.parent / "difficulty.npz",
            "cascade": cascade,
        },
        server={"address": "127.0.0.1:0", "metrics_address": ""},
        log={"level": "error"},
        **more,
    )


async def served(settings, known, task):
    """Ask a server every prompt over gRPC, four at a time; returns the shares of right, escalated and flagged answers."""
    async with open_core(settings) as core:
        server = GrpcServer(settings.server, core.answers, core.catalogs, core.metrics.called)
        await server.start()
        rules, sampling = constraints(task_type=task), router_pb2.Sampling(temperature=0)
        places = asyncio.Semaphore(4)

        async def one(client, item):
            text, escalated, flagged = "", False, False
            async with places, aclosing(client.generate(item.prompt, rules, sampling)) as events:
                async for event in events:
                    text = said(text, event)
                    if event.WhichOneof("event") == "escalation":
                        escalated = event.escalation.decision.reason == router_pb2.DECISION_REASON_ESCALATED
                    elif event.WhichOneof("event") == "done":
                        flagged = event.done.low_confidence
            return text == item.answer.strip(), escalated, flagged

        async with AsyncClient(f"127.0.0.1:{server.port}") as client:
            found = await asyncio.gather(*(one(client, item) for item in known))
        await server.drain(1.0)
    return tuple(sum(column) / len(known) for column in zip(*found, strict=True))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME_test.jsonl")
    parser.add_argument("--validation", type=Path, required=True, help="folder of NAME.jsonl, to fit on")
    parser.add_argument("--twins", type=Path, help="folder of NAME.jsonl, answers that twins.py collected")
    parser.add_argument("--specialists", type=Path, default=ROOT / "specialists")
    parser.add_argument("--names", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--limit", type=int, default=0, help="prompts of each file; 0: all")
    parser.add_argument(
        "--cloud-errors", type=float, default=0.02, help="share that the simulation gets wrong"
    )
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "cascade.md")
    arguments = parser.parse_args()
    rows, over_grpc = [], []
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        cascade = Path(folder) / "cascade.json"
        settings = settings_of(arguments, cascade)
        configure_logs(settings.log)
        catalog = load_catalog(settings)

        def answers_to(name, known, what):
            task = progress.add_task(f"{name}: {what}", total=len(known))
            return asyncio.run(
                collect(settings, name, known, lambda done, _: progress.update(task, completed=done))
            )

        labelled, tests = [], {}
        for name in arguments.names:
            known = _first(read_known(arguments.validation / f"{name}.jsonl"), arguments.limit)
            labelled += answers_to(name, known, "validation")
            if arguments.twins and (arguments.twins / f"{name}.jsonl").is_file():
                labelled += read_answers(arguments.twins / f"{name}.jsonl", catalog)
            tests[name] = _first(read_known(arguments.data / f"{name}_test.jsonl"), arguments.limit)
        fitted = fit_cascade(labelled, catalog, arguments.risk, arguments.confidence)
        on_test = [a for name in arguments.names for a in answers_to(name, tests[name], "test")]
        for figures in figures_on(on_test, catalog, fitted, 1 - arguments.cloud_errors):
            model = fitted.named(figures.specialist)
            rows.append(
                [
                    figures.specialist,
                    str(figures.answers),
                    report.NOTHING if figures.auroc is None else f"{figures.auroc:.3f}",
                    *(f"{figures.accuracy[share]:.3f}" for share in SHARES),
                    f"{model.required_confidence:.3f}" if model.holds else "none holds",
                    f"{figures.escalated:.1%}",
                    f"{figures.standing_wrong:.1%}",
                ]
            )
        cascade.write_text(cascade_json(fitted))
        gold = {item.prompt: item.answer for known in tests.values() for item in known}
        with gold_cloud(gold, arguments.cloud_errors) as url:
            cloud = {"base_url": url, "model": "gold", "max_retries": 0}
            for name in arguments.names:
                accuracy, escalated, flagged = asyncio.run(
                    served(settings_of(arguments, cascade, cloud=cloud), tests[name], TASKS[name])
                )
                over_grpc.append([name, f"{accuracy:.3f}", f"{escalated:.1%}", f"{flagged:.1%}"])
    by_twins = [answer for answer in labelled if answer.twin]
    shaped = (
        f", the curve on {len(by_twins)} of twins, which were trained on one half and asked the other"
        if by_twins
        else ""
    )
    headers = ["specialist", "answers", "AUROC", *(f"{share:.0%} escalated" for share in SHARES)]
    headers += ["threshold", "escalate there", "stand and are wrong"]
    body = "\n\n".join(
        [
            report.table(headers, rows),
            (
                f"The cloud is a simulation: a server on loopback that answers with the gold answer, and is wrong for "
                f"{arguments.cloud_errors:.0%} of the prompts. AUROC: of confidence for 'the local answer is right' "
                "(exact match). Columns of shares: accuracy with the least confident answers escalated. Threshold: "
                f"fitted on {len(labelled) - len(by_twins)} validation answers{shaped}, so that at most "
                f"{arguments.risk:.0%} stand and are wrong, with {arguments.confidence:.0%} confidence. Aims: AUROC ≥ {AIM['auroc']} on each; support "
                f"≥ {AIM['support']} at 20% escalated."
            ),
            (
                "Served: every test prompt over gRPC, four at a time, at that threshold, with the simulated cloud "
                "behind it."
            ),
            report.table(["specialist", "accuracy", "escalated", "flagged"], over_grpc),
        ]
    )
    command = "python benchmarks/keep_out.py --data DIR --out OUT && "
    for name in sorted({answer.specialist for answer in by_twins}):
        command += f"python benchmarks/twins.py --data OUT/train --name {name} --out OUT/twins && "
    command += "python benchmarks/cascade.py --data DIR --validation OUT/validation"
    if by_twins:
        command += " --twins OUT/twins"
    if arguments.names != list(TASKS):
        command += f" --names {' '.join(arguments.names)}"
    if arguments.limit:
        command += f" --limit {arguments.limit}"
    report.write(arguments.out, "The cascade", body, command)


def _first(known, limit):
    return known[:limit] if limit else known


if __name__ == "__main__":
    main()
