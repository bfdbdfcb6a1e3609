"""From a file of examples to an adapter that answers through `Generate`: what docs/train-a-specialist.md takes.

    python benchmarks/keep_out.py --data DATA --out OUT
    python benchmarks/train.py --data OUT/train/support_train.jsonl --eval DATA/support_test.jsonl     # alone

`pointsman train` is run as a newcomer runs it, the base being fetched already; then a server is started over what it
wrote, and asked judging prompts over gRPC. Stages are told by what the command says on the way.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

import report
from own_server import base_for, served
from pointsman import AsyncClient
from pointsman.client import constraints, said
from pointsman.host.training import SHIPPED_BASE
from pointsman.v1 import router_pb2

ROOT = Path(__file__).parent.parent
STAGES = (
    ("base alone: zero-shot and few-shot", "few-shot:"),
    ("training", "training, step "),
    ("export, and comparing engine and trained model", "comparing over the base:"),
    ("measuring the adapter through the engine", "answering adapter:"),
)
"""What is done, and how the last line that tells of it begins."""


def trained(arguments: argparse.Namespace, scratch: Path) -> tuple[list[float], float, str]:
    """Run the command; returns when each stage ended and the whole did, in seconds, and what it printed."""
    environment = os.environ | {"POINTSMAN_PATHS__SPECIALISTS": str(scratch / "specialists")}
    command = [
        sys.executable, "-m", "pointsman", "train", arguments.name, "--data", str(arguments.data),
        "--eval", str(arguments.eval), "--max-minutes", f"{arguments.minutes:g}", "--drop-leaks",
    ]  # fmt: skip
    ends = [0.0] * len(STAGES)
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stdout is not None
    for line in process.stderr:
        print(line, end="", file=sys.stderr)
        for number, (_, begins) in enumerate(STAGES):
            if line.startswith(begins):
                ends[number] = time.perf_counter() - begun
    printed = process.stdout.read()
    if process.wait():
        raise SystemExit(process.returncode)
    return ends, time.perf_counter() - begun, printed


async def answered(address: str, name: str, asked: list[dict]) -> tuple[float, float]:
    """Return the seconds to the end of the first answer, and the share of answers that are exactly right."""
    right, first_s = 0, 0.0
    begun = time.perf_counter()
    async with AsyncClient(address, timeout_s=120) as client:
        for row in asked:
            text = ""
            sampling = router_pb2.Sampling(temperature=0)
            async with aclosing(
                client.generate(row["user"], constraints(specialist=name), sampling)
            ) as events:
                async for event in events:
                    text = said(text, event)
            first_s = first_s or time.perf_counter() - begun
            right += text == row["answer"]
    return first_s, right / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="JSONL of examples")
    parser.add_argument("--eval", type=Path, required=True, help="JSONL that judges")
    parser.add_argument("--name", default="my_support")
    parser.add_argument("--minutes", type=float, default=12.0, help="of training (--max-minutes)")
    parser.add_argument("--asked", type=int, default=50, help="judging prompts that the server is asked")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "train.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "specialists").mkdir()
        base_for(scratch, SHIPPED_BASE)
        ends, whole, printed = trained(arguments, scratch)
        asked = [json.loads(line) for line in arguments.eval.read_text().splitlines()[: arguments.asked]]
        begun = time.perf_counter()
        with served(scratch / "specialists", scratch, general=arguments.name) as address:
            up = time.perf_counter() - begun
            first_s, right = asyncio.run(answered(address, arguments.name, asked))
    spans = [end - before for before, end in zip([0.0, *ends], ends, strict=False)]
    rows = [
        *([what, f"{span / 60:.1f}"] for (what, _), span in zip(STAGES, spans, strict=True)),
        ["`pointsman train`, whole", f"{whole / 60:.1f}"],
        ["start of a server over it", f"{up / 60:.1f}"],
        ["its first answer through `Generate`", f"{first_s / 60:.2f}"],
        ["from the file to that answer (aim ≤ 30)", f"{(whole + up + first_s) / 60:.1f}"],
    ]
    body = "\n\n".join(
        [
            report.versions("pointsman", "torch", "transformers", "peft", "xllamacpp"),
            report.table(["stage", "minutes"], rows),
            printed[: printed.index("written:")].strip(),
            f"Through `Generate`, the first {len(asked)} judging prompts: {right:.1%} exactly right.",
        ]
    )
    command = (
        f"python benchmarks/train.py --data {arguments.data.name} --eval {arguments.eval.name} "
        f"--minutes {arguments.minutes:g}"
    )
    report.write(arguments.out, "Training a specialist", body, command)
    print(body)


if __name__ == "__main__":
    main()
