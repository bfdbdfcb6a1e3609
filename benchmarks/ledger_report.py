"""How long `pointsman report` takes over a ledger of a million rows, from its start to its end.

    python benchmarks/ledger_report.py          # alone on the machine

The rows are drawn at random: ninety days, five specialists, a fifth of them on the cloud, one in twenty rated, one in
fifty asked of the cloud as well.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.progress import track

import report as results
from pointsman.ledger.database import database, migrate
from pointsman.ledger.tables import comparisons, feedback, requests
from pointsman.values.ledger import Comparison, Entry

ROOT = Path(__file__).parent.parent
BATCH = 20_000

PRICES = "currency: USD\nmodels: [{model: big, input: 2, cached: 0.5, output: 8, as_of: 2026-11-01}]\n"
KINDS = {"Markdown": (), "page with plots": ("--html", "report.html"), "JSON": ("--json",)}


def row(number: int, draw: random.Random, now: float) -> dict:
    away = draw.random() < 0.2
    return asdict(
        Entry(
            now - draw.random() * 90 * 86400, f"{number:032x}", "generate",
            draw.choices(("ok", "escalated", "flagged", "failed"), (90, 6, 3, 1))[0], caller=f"caller{number % 12}",
            tier="cloud" if away else "local", specialist="" if away else f"s{number % 5}", routed_to=f"s{number % 5}",
            model="m", intent="refund", reason="intent_match", similarity=draw.random(), score=draw.random(),
            confidence=draw.random(), prompt_tokens=draw.randrange(20, 800), cached_tokens=10,
            completion_tokens=draw.randrange(1, 300), ttft_ms=draw.random() * 900, total_ms=draw.random() * 5000,
            retries=0, cost=0.001 if away else None, currency="USD", catalog_version="v" * 32,
        )
    )  # fmt: skip


def beside(asked: dict, draw: random.Random) -> dict:
    """Return what the cloud said to the same, of a row."""
    return asdict(
        Comparison(
            asked["time"] + 2, asked["request_id"], asked["caller"], asked["specialist"], "big", "fields",
            draw.random(), draw.random() < 0.9, 0.001, "USD", "h" * 64, False, "[-0.1, -0.2]",
        )
    )  # fmt: skip


def seconds(folder: Path, *options: str) -> float:
    """Return how long the command takes."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pointsman", "report", "--since", "91d", *options], cwd=folder, check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"POINTSMAN_LEDGER__URL": f"sqlite:///{folder / 'ledger.db'}", "POINTSMAN_CLOUD__MODEL": "big"},
    )  # fmt: skip
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ledger_report.md")
    arguments = parser.parse_args()
    draw, now, compared = random.Random(1), time.time(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prices.yaml").write_text(PRICES)
        engine = database(f"sqlite:///{folder / 'ledger.db'}")
        migrate(engine)
        for start in track(range(0, arguments.rows, BATCH), "rows"):
            rows = [row(number, draw, now) for number in range(start, min(start + BATCH, arguments.rows))]
            said = [
                {"time": now, "request_id": asked["request_id"], "caller": asked["caller"], "accepted": draw.random() < 0.97,
                 "intent": "", "answer": "", "comment": ""}
                for asked in rows[::20]
            ]  # fmt: skip
            of_cloud = [beside(asked, draw) for asked in rows[::50] if asked["specialist"]]
            compared += len(of_cloud)
            with engine.begin() as connection:
                connection.execute(requests.insert(), rows)
                connection.execute(feedback.insert(), said)
                connection.execute(comparisons.insert(), of_cloud)
        engine.dispose()
        size = (folder / "ledger.db").stat().st_size / 2**20
        took = {
            kind: [seconds(folder, *options) for _ in range(arguments.rounds)]
            for kind, options in KINDS.items()
        }
    aim = "≤ 10" if arguments.rows == 1_000_000 else ""
    body = (
        f"{results.versions('pointsman', 'sqlalchemy', 'numpy')}; {arguments.rows:,} rows, {arguments.rows // 20:,} ratings and "
        f"{compared:,} comparisons in SQLite ({size:.0f} MiB), of which all are in the report; the whole command, started anew, "
        f"median of {arguments.rounds}.\n\n"
        + results.table(
            ["`pointsman report`, s", "measured", "aim"],
            [[kind, f"{results.percentile(times, 50):.1f}", aim] for kind, times in took.items()],
        )
    )  # fmt: skip
    command = shlex.join(["python", "benchmarks/ledger_report.py", *sys.argv[1:]])
    results.write(arguments.out, "Ledger: a report", body, command)
    print(body)


if __name__ == "__main__":
    main()
