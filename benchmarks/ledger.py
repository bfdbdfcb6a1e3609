"""What the ledger costs: Route with and without it, side by side.

    python benchmarks/ledger.py          # alone on the machine

Two servers, each a process of its own, take turns under the same load; the one writes a row for each request to a
SQLite file.
"""

import argparse
import asyncio
import shlex
import sqlite3
import sys
import tempfile
from pathlib import Path

from rich.progress import Progress

import report
from pointsman.catalog.store import FileStore
from route import load_server, pointsman

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=2000, help="of each server in a round")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ledger.md")
    arguments = parser.parse_args()
    catalog = FileStore(ROOT / "intents", ROOT / "specialists").load()
    texts = [text for intent in catalog.intents for text in intent.exemplars]
    found = {"with": ([], []), "without": ([], [])}
    with tempfile.TemporaryDirectory() as name, Progress() as progress:
        scratch = Path(name)
        task = progress.add_task("rounds", total=2 * arguments.rounds)
        with (
            pointsman(ROOT / "intents", scratch) as one,
            pointsman(ROOT / "intents", scratch, POINTSMAN_LEDGER__ENABLED="false") as other,
        ):
            servers = [("with", one), ("without", other)]
            for number in range(arguments.rounds):
                for which, port in servers if number % 2 else reversed(servers):
                    took, rate = asyncio.run(load_server(port, texts, arguments.clients, arguments.requests))
                    found[which][0].append(report.percentile(took, 50))
                    found[which][1].append(rate)
                    progress.advance(task)
        with sqlite3.connect(scratch / "ledger.db") as ledger:
            rows = ledger.execute("SELECT COUNT(*) FROM requests").fetchone()[0]
    p50, rate = ({which: report.percentile(found[which][i], 50) for which in found} for i in (0, 1))
    asked = arguments.rounds * (arguments.requests + 1)
    body = (
        f"{report.versions('pointsman', 'sqlalchemy', 'grpcio')}; {arguments.clients} clients, {arguments.rounds} rounds of "
        f"{arguments.requests:,} requests a server in turns, medians of the rounds. The ledger had {rows:,} rows of {asked:,} "
        "requests at the end.\n\n"
        + report.table(
            ["Route", "p50 ms", "requests/s"],
            [[f"{which} the ledger", f"{p50[which]:.1f}", f"{rate[which]:.0f}"] for which in found]
            + [["with to without", f"{p50['with'] / p50['without']:.3f}", f"{rate['with'] / rate['without']:.3f}"]],
        )
    )  # fmt: skip
    report.write(
        arguments.out, "Ledger: what it costs", body, shlex.join(["python", "benchmarks/ledger.py", *sys.argv[1:]])
    )  # fmt: skip
    print(body)


if __name__ == "__main__":
    main()
