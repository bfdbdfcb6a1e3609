"""Catalogs of few intents, and what they accept that has nothing to do with any of them.

Each domain of CLINC150 is a catalog, of its first 3, 7 or all 15 intents with 10 exemplars each; the prompts of all
other intents, and those that CLINC150 calls out of scope, are out of its scope. semantic-router gets what it gets in
quality.py. The test split is read once, to print the table.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

import report
from corpora import ABOUT, CLINC, DOMAINS, NONE, SEEDS, SHOTS, add_data, check_data, draw_few, read_domains
from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.load import load_encoder
from pointsman.index import transform
from pointsman.settings import load
from quality import Corpus, add_peer, clinc_corpus, measure, peer_at
from quality_table import Figures

SIZES = (3, 7, 15)
_OTHERS = 7
"""Of the prompts of all other intents every seventh is asked, so that they do not drown those out of any scope."""
_COLUMNS = ("accuracy", "auroc", "joint", "rejected", "accepted_outside")


def main() -> None:
    """Measure every catalog and print the table."""
    arguments = _parse()
    settings = load()
    store = ArtifactStore(settings.paths.models, Path.cwd())
    cache = EmbeddingCache(load_encoder(settings.encoder, store), settings.paths.cache)
    domains = read_domains(arguments.data)
    peer = peer_at(arguments.peer_python)
    rows = []
    with threadpool_limits(limits=1):
        everything = clinc_corpus(arguments.data, cache)
        for size in SIZES:
            draws = list(product(domains.values(), SEEDS))
            bar = track(draws, f"{size} intents", console=Console(stderr=True))
            found = [_measure(_catalog(everything, intents[:size]), seed, peer) for intents, seed in bar]
            rows += [
                [f"{size} intents: {name}", *_means([figures[name] for figures in found])]
                for name in found[0]
            ]
    headers = ["", "accuracy", "OOS AUROC", "joint accuracy", "in-scope rejected", "out of scope, accepted"]
    table = report.table(headers, rows)
    print(table)
    if arguments.out:
        versions = report.versions("faiss-cpu", "onnxruntime", "scikit-learn", "numpy")
        report.write(
            arguments.out,
            "Catalogs of few intents",
            f"{versions}\n\n{table}\n\n{_LEGEND}",
            "python benchmarks/small_catalogs.py --data DIR",
        )


_LEGEND = f"""\
In percent, means over the ten domains of CLINC150 and {len(SEEDS)} draws of {SHOTS} exemplars an intent. Columns as in quality.md.

- joint accuracy: with 3 intents of a domain 95 of 100 prompts are out of scope, with 15 three quarters.
- out of scope, accepted: of the test prompts of all other intents (every {_OTHERS}th) and of those that CLINC150 calls out of
  scope, how many an intent accepts.
- projection and embedding alike: as it would be if the projection counted half however few intents there are.
- semantic-router: the setting that does best on its fit texts, with the thresholds that do best there. Those are
  validation prompts with labels, out-of-scope ones among them; pointsman has seen exemplars alone."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write, too")
    add_peer(parser)
    arguments = parser.parse_args()
    check_data(parser, arguments.data, CLINC, DOMAINS)
    return arguments


def _catalog(everything: Corpus, intents: Sequence[str]) -> Corpus:
    """Return the corpus as a catalog of some intents sees it: all other prompts are out of scope."""
    taken = np.array([everything.intents.index(intent) for intent in sorted(intents)])
    number = np.full(len(everything.intents) + 1, NONE)
    number[taken] = np.arange(len(taken))
    labels = number[everything.labels]  # the last number is that of what is out of scope anyway

    def asked(part: np.ndarray) -> np.ndarray:
        others = (labels[part] == NONE) & (everything.labels[part] != NONE)
        return part[~others | (np.cumsum(others) % _OTHERS == 0)]

    return replace(
        everything,
        intents=tuple(everything.intents[i] for i in taken),
        words=tuple(everything.words[i] for i in taken),
        names=everything.names[taken],
        labels=labels,
        train=everything.train[labels[everything.train] != NONE],
        test=asked(everything.test),
        traffic=asked(everything.traffic),
    )


def _measure(corpus: Corpus, seed: int, peer: Path | None) -> dict[str, Figures]:
    exemplars = corpus.train[draw_few(corpus.labels[corpus.train], corpus.classes, seed)]
    result = measure(corpus, exemplars, peer)
    with patch.object(transform, "_ENOUGH_AXES", 1):
        alike = measure(corpus, exemplars, None)
    found = {"**pointsman**": result.ours, "projection and embedding alike": alike.ours}
    if result.peers:
        found["semantic-router"] = result.peers["chosen"].figures["best"]
    return found


def _means(figures: Sequence[Figures]) -> list[str]:
    return [f"{100 * np.mean([getattr(one, name) for one in figures]):.1f}" for name in _COLUMNS]


if __name__ == "__main__":
    main()
