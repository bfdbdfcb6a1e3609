"""How long `pointsman replay` takes over 100,000 decisions.

    python benchmarks/replay.py --data ../shared/data          # alone on the machine

The prompts are CLINC150's training prompts, each ten times with another ending; the catalog is the one that is shipped.
Once the proposal has other thresholds and a rule, so that the ledger knows enough; once it has one intent less, so that
prompts are embedded. The whole command is timed, from its start to its end, with an empty cache.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.progress import track

import report as results
from corpora import CLINC, check_data, read_clinc
from pointsman.host.offline import learned_of, load_catalog, open_workbench
from pointsman.ledger.database import database, migrate
from pointsman.ledger.tables import requests
from pointsman.settings import load
from pointsman.values.ledger import Entry

ROOT = Path(__file__).parent.parent
BATCH = 10_000
TIMES = 10


def fill(url: str, texts: list[str], scratch: Path) -> int:
    """Decide about the texts, and write each decision ten times; returns how many rows there are."""
    settings = load(paths={"cache": scratch / "filling"})
    with open_workbench(settings) as bench:
        catalog = load_catalog(settings)
        matcher = bench.snapshot(catalog, learned_of(bench, catalog)[0]).matcher
        found = [matcher.judge(row, text) for row, text in zip(bench.embed(texts), texts, strict=True)]
    rows = []
    for copy in range(TIMES):
        for i, (text, evidence) in enumerate(zip(texts, found, strict=True)):
            local = evidence.accepted and evidence.target != "cloud"
            asked = f"{text}, number {copy}"
            rows.append(
                asdict(
                    Entry(
                        time.time() - 86400 * (i % 30), f"{copy}-{i}", "generate", "ok", f"caller{i % 7}",
                        tier="local" if local else "cloud", specialist=evidence.target if local else "",
                        routed_to=evidence.target if local else "", model="m" if local else "big", intent=evidence.intent,
                        reason="intent_match" if local else "low_similarity", similarity=evidence.similarity,
                        score=evidence.score, threshold=evidence.threshold, confidence=evidence.confidence,
                        confidence_alone=evidence.confidence_alone, scorer=evidence.scorer,
                        asked=json.dumps({"tokens": len(asked) // 4}), prompt_tokens=30, cached_tokens=0,
                        completion_tokens=40, cost=None if local else 0.0004, currency="" if local else "USD", prompt=asked,
                    )
                )
            )  # fmt: skip
    engine = database(url)
    migrate(engine)
    for start in track(range(0, len(rows), BATCH), "rows"):
        with engine.begin() as connection:
            connection.execute(requests.insert(), rows[start : start + BATCH])
    engine.dispose()
    return len(rows)


def proposal(folder: Path, *, intents: bool) -> None:
    """Make a folder with a proposed configuration: another one of thresholds and rules, or of intents."""
    for name in ("intents", "specialists"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "prices.yaml").write_text(
        "currency: USD\nmodels: [{model: big, input: 2, output: 8, as_of: 2026-11-01}]\n"
    )
    (folder / "pointsman.yaml").write_text(
        "cloud: {model: big}\n" + ("" if intents else "routing: {rejection: 0.2}\n")
    )
    if intents:
        min((folder / "intents").glob("*.yaml")).unlink()
    else:
        (folder / "rules.yaml").write_text("rules:\n  - {name: one, to: cloud, when: {caller: [caller1]}}\n")


def timed(folder: Path, url: str) -> tuple[float, dict]:
    """Run the command; returns seconds, and what it found."""
    environment = os.environ | {
        "POINTSMAN_LEDGER__URL": url, "POINTSMAN_PATHS__CACHE": str(folder / "cache"),
    }  # fmt: skip
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pointsman", "replay", "--since", "31d", "--json"], cwd=folder, env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - begun, json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--prompts", type=int, default=10_000, help="a tenth of the decisions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "replay.md")
    arguments = parser.parse_args()
    check_data(parser, arguments.data, CLINC)
    data = read_clinc(arguments.data)
    texts = list(dict.fromkeys(text for text, _ in data["train"]))[: arguments.prompts]
    table = []
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{Path(name) / 'ledger.db'}"
        count = fill(url, texts, Path(name))
        for intents, label in ((False, "other thresholds, a rule"), (True, "an intent less")):
            took = []
            for number in range(arguments.rounds):
                folder = Path(name) / f"{label} {number}"
                proposal(folder, intents=intents)
                seconds, found = timed(folder, url)
                took.append(seconds)
            flipped = f"{found['flipped']:,} of {found['decisions']:,}"
            aim = "≤ 60" if count == 100_000 else ""
            table.append(
                [
                    label,
                    f"{found['known']:,}",
                    f"{found['embedded']:,}",
                    flipped,
                    f"{np.median(took):.1f}",
                    aim,
                ]
            )
    body = (
        f"{results.versions('pointsman', 'sqlalchemy', 'numpy')}; {count:,} decisions with {count:,} prompts in SQLite, the whole "
        f"command, median of {arguments.rounds}. Of prompts that must be embedded, 10,000 are, and as large a part of the decisions "
        "is replayed.\n\n"
        + results.table(["proposal", "known to the ledger", "embedded", "flip", "s", "aim"], table)
    )  # fmt: skip
    results.write(
        arguments.out, "Replay", body, shlex.join(["python", "benchmarks/replay.py", *sys.argv[1:]])
    )
    print(body)


if __name__ == "__main__":
    main()
