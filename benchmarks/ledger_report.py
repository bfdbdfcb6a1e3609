"""How long a report takes over a ledger of a million rows.

    python benchmarks/ledger_report.py          # alone on the machine

The rows are drawn at random: ninety days, five specialists, a fifth of them on the cloud, one in twenty rated.
"""

import argparse
import random
import shlex
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.progress import track

import report as results
from pointsman.ledger.database import database, migrate
from pointsman.ledger.report import report
from pointsman.ledger.report_text import markdown
from pointsman.ledger.tables import feedback, requests
from pointsman.values.ledger import Entry
from pointsman.values.price import ModelPrice, PriceList

ROOT = Path(__file__).parent.parent
BATCH = 20_000

PRICES = PriceList("USD", {"big": ModelPrice(2.0, 0.5, 8.0)})


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ledger_report.md")
    arguments = parser.parse_args()
    draw, now, took = random.Random(1), time.time(), []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ledger.db"
        engine = database(f"sqlite:///{path}")
        migrate(engine)
        for start in track(range(0, arguments.rows, BATCH), "rows"):
            numbers = range(start, min(start + BATCH, arguments.rows))
            with engine.begin() as connection:
                connection.execute(requests.insert(), [row(number, draw, now) for number in numbers])
                said = [
                    {"time": now, "request_id": f"{n:032x}", "caller": f"caller{n % 12}", "accepted": bool(n % 40),
                     "intent": "", "answer": "", "comment": ""}
                    for n in numbers[::20]
                ]  # fmt: skip
                connection.execute(feedback.insert(), said)
        size = path.stat().st_size / 2**20
        for _ in range(arguments.rounds):
            begun = time.perf_counter()
            with engine.connect() as connection:
                found = report(connection, datetime.now(UTC) - timedelta(days=91), PRICES, "big")
            page = markdown(found)
            took.append(time.perf_counter() - begun)
        engine.dispose()
    body = (
        f"{results.versions('pointsman', 'sqlalchemy', 'numpy')}; {arguments.rows:,} rows and {arguments.rows // 20:,} ratings in "
        f"SQLite ({size:.0f} MiB), a page of {len(page.splitlines())} lines over all of them, median of {arguments.rounds}.\n\n"
        + results.table(
            ["", "measured", "aim"],
            [["report, s", f"{results.percentile(took, 50):.1f}", "≤ 10" if arguments.rows == 1_000_000 else ""]],
        )
    )  # fmt: skip
    command = shlex.join(["python", "benchmarks/ledger_report.py", *sys.argv[1:]])
    results.write(arguments.out, "Ledger: a report", body, command)
    print(body)


if __name__ == "__main__":
    main()
