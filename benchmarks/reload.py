"""From a file that is dropped, changed or deleted in `intents/` to the first decision of the new catalog.

    python benchmarks/reload.py [--data ../shared/data]          # alone on the machine

A real server, with its engines, over a folder of intents. One caller asks all the while, 20 ms after each reply, and
looks at the catalog version of each decision; what it waits for is what anybody waits for. The slowest of its requests
in that time tells what a change costs those that are being answered.
"""

import argparse
import asyncio
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import yaml
from rich.progress import Progress

import report
from corpora import CLINC, check_data
from pointsman.v1 import router_pb2, router_pb2_grpc
from route import ROOT, clinc_intents, pointsman, write_intent

EVERY_S = 0.02
LONGEST_S = 300.0
NEW = 20
"""Exemplars of the intent that comes, changes and goes."""


@dataclass
class Seen:
    """What a caller saw, in ms: by kind of change until it took effect, and of each request until then."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    requests: list[float] = field(default_factory=list)
    calm: list[float] = field(default_factory=list)
    failed: int = 0


class Caller:
    """Asks one request after the other."""

    def __init__(self, stub: router_pb2_grpc.RouterServiceStub, seen: Seen) -> None:
        self._stub = stub
        self._seen = seen

    async def ask(self, times: list[float]) -> str:
        """Return the catalog version of a decision; empty when it failed."""
        message = router_pb2.Message(role=router_pb2.ROLE_USER, content="what is on in the park tonight")
        begun = time.perf_counter()
        try:
            reply = await self._stub.Route(router_pb2.RouteRequest(messages=[message]), timeout=LONGEST_S)
        except grpc.RpcError:
            self._seen.failed += 1
            return ""
        else:
            times.append((time.perf_counter() - begun) * 1e3)
            return reply.decision.catalog_version
        finally:
            await asyncio.sleep(EVERY_S)

    async def until_new(self, change: Callable[[], None]) -> float:
        """Change something; return the ms until a decision is made by it."""
        while not (old := await self.ask(self._seen.calm)):
            pass
        change()
        begun = time.perf_counter()
        while (await self.ask(self._seen.requests)) in (old, ""):
            if time.perf_counter() - begun > LONGEST_S:
                raise SystemExit(f"no change within {LONGEST_S:g} s")
        return (time.perf_counter() - begun - EVERY_S) * 1e3


async def measure(port: int, folder: Path, rounds: int, step: Callable[[], None]) -> Seen:
    """Add, change and delete an intent, `rounds` times."""
    seen = Seen()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        caller = Caller(router_pb2_grpc.RouterServiceStub(channel), seen)
        for _ in range(rounds):
            stamp = secrets.token_hex(3)  # never embedded before
            texts = [f"does the tide at pier {i} of {stamp} come in before noon" for i in range(NEW)]
            changes = {
                "added": partial(write_intent, folder, "tides", texts),
                "changed": partial(write_intent, folder, "tides", [*texts, f"is {stamp} dry at low tide"]),
                "deleted": (folder / "tides.yaml").unlink,
            }
            for kind, change in changes.items():
                for _ in range(10):
                    await caller.ask(seen.calm)
                seen.took[kind].append(await caller.until_new(change))
                step()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with CLINC150, for larger catalogs")
    parser.add_argument("--rounds", type=int, default=5, help="of the shipped catalog; of larger ones 2")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "reload.md")
    arguments = parser.parse_args()
    if arguments.data:
        check_data(parser, arguments.data, CLINC)
    rows = []
    with tempfile.TemporaryDirectory() as name, Progress() as progress:
        scratch = Path(name)
        folders = {scratch / "shipped": arguments.rounds}
        shutil.copytree(ROOT / "intents", scratch / "shipped")
        if arguments.data:
            for intents, each in ((1000, 2), (100, 50), (150, 100)):
                folder = scratch / f"{intents}x{each}"
                clinc_intents(arguments.data, folder, intents, each)
                folders[folder] = 2
        task = progress.add_task("changes", total=3 * sum(folders.values()))
        for folder, rounds in folders.items():
            files = list(folder.glob("*.yaml"))
            exemplars = sum(len(yaml.safe_load(file.read_text())["exemplars"]) for file in files)
            with pointsman(folder, scratch) as port:
                seen = asyncio.run(measure(port, folder, rounds, lambda: progress.advance(task)))
            every = [ms for times in seen.took.values() for ms in times]
            seconds = [report.percentile(times, 50) / 1e3 for times in (*seen.took.values(), every)]
            rows.append(
                [
                    f"{exemplars:,}",
                    f"{len(files):,}",
                    *(f"{value:.2f}" for value in (*seconds, max(every) / 1e3)),
                    *(f"{report.percentile(ms, 50):.1f}" for ms in (seen.calm, seen.requests)),
                    f"{max(seen.requests):.0f}",
                    f"{seen.failed} of {len(seen.calm) + len(seen.requests)}",
                ]
            )
    headers = ["exemplars", "intents", "added, s", "changed, s", "deleted, s", "p50, s", "longest, s"]
    headers += ["Route p50, calm, ms", "during changes, ms", "slowest, ms", "failed requests"]
    body = (
        f"{report.versions('pointsman', 'scikit-learn', 'scipy', 'numpy')}\n\n{report.table(headers, rows)}\n\n"
        f"From a file that was written to the first decision by the new catalog; medians of {arguments.rounds} changes of a\n"
        f"kind, 2 of larger catalogs. Added are {NEW} exemplars, which are embedded the first time. A caller asks "
        f"{EVERY_S * 1e3:.0f} ms\nafter each reply, all the while; larger catalogs are of CLINC150, those of a thousand intents with many of one kind."
    )
    report.write(
        arguments.out,
        "Changes of intents",
        body,
        shlex.join(["python", "benchmarks/reload.py", *sys.argv[1:]]),
    )
    print(body)


if __name__ == "__main__":
    main()
