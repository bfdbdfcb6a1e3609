"""What the ledger costs: Route with and without it, side by side.

    python benchmarks/ledger.py          # alone on the machine

Three servers, each a process of its own, take turns under the same load: short ones, since a machine is not as fast at
one time as at another, and in each before its turn is waited for what the one before still writes. One server writes a
row for each request to a SQLite file, another the redacted prompt too (`ledger.text`), the third none.
"""

import argparse
import asyncio
import shlex
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import Progress

import report
from pointsman.catalog.store import FileStore
from pointsman.settings import load
from route import load_server, pointsman

ROOT = Path(__file__).parent.parent


def count(path: Path) -> int:
    """Return how many requests a ledger has."""
    with sqlite3.connect(path) as ledger:
        return ledger.execute("SELECT COUNT(*) FROM requests").fetchone()[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--requests", type=int, default=400, help="of each server in a round")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ledger.md")
    arguments = parser.parse_args()
    catalog = FileStore(ROOT / "intents", ROOT / "specialists").load()
    texts = [text for intent in catalog.intents for text in intent.exemplars]
    written_after_s = 1.2 * load().ledger.flush_s
    found = {which: ([], []) for which in ("with", "with, and text", "without")}
    with tempfile.TemporaryDirectory() as name, Progress() as progress:
        scratch = Path(name)
        task = progress.add_task("rounds", total=len(found) * arguments.rounds)
        with (
            pointsman(ROOT / "intents", scratch) as one,
            pointsman(
                ROOT / "intents",
                scratch,
                POINTSMAN_LEDGER__TEXT="true",
                POINTSMAN_LEDGER__URL=f"sqlite:///{scratch / 'text.db'}",
            ) as texts_too,
            pointsman(ROOT / "intents", scratch, POINTSMAN_LEDGER__ENABLED="false") as other,
        ):
            servers = [("with", one), ("with, and text", texts_too), ("without", other)]
            for number in range(arguments.rounds):
                begins = number % len(servers)
                for which, port in (*servers[begins:], *servers[:begins]):
                    time.sleep(written_after_s)
                    took, rate = asyncio.run(load_server(port, texts, arguments.clients, arguments.requests))
                    found[which][0].append(report.percentile(took, 50))
                    found[which][1].append(rate)
                    progress.advance(task)
        rows = [count(scratch / name) for name in ("ledger.db", "text.db")]
    p50, rate = ({which: report.percentile(found[which][i], 50) for which in found} for i in (0, 1))
    asked = arguments.rounds * (arguments.requests + 1)
    body = (
        f"{report.versions('pointsman', 'sqlalchemy', 'grpcio')}; {arguments.clients} clients, {arguments.rounds} rounds of "
        f"{arguments.requests:,} requests a server in turns, medians of the rounds. The ledgers had {rows[0]:,} and {rows[1]:,} rows "
        f"of {asked:,} requests at the end.\n\n"
        + report.table(
            ["Route", "p50 ms", "requests/s"],
            [[f"ledger: {which}", f"{p50[which]:.1f}", f"{rate[which]:.0f}"] for which in found]
            + [
                [f"{which}, to without", f"{p50[which] / p50['without']:.3f}", f"{rate[which] / rate['without']:.3f}"]
                for which in found if which != "without"
            ],
        )
    )  # fmt: skip
    report.write(
        arguments.out, "Ledger: what it costs", body, shlex.join(["python", "benchmarks/ledger.py", *sys.argv[1:]])
    )  # fmt: skip
    print(body)


if __name__ == "__main__":
    main()
