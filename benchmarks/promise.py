"""Is the promise of `pointsman calibrate` kept? Random calibration/test splits of CLINC150.

Exemplars are the training split; labelled traffic is the validation and test splits together, out-of-scope
prompts included. Every intent is answered by the specialist of its domain (ten of them), out-of-scope prompts
belong to the cloud. Each split calibrates on some prompts and counts the wrong specialists among all others.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import report
from corpora import ABOUT, CLINC, DOMAINS, SHOTS, Pairs, add_data, check_data, read_clinc, read_domains
from pointsman.artifacts.store import ArtifactStore
from pointsman.decision.promise import (
    Verdicts,
    control_risk,
    expected_calibration_error,
    fit_line,
    sigmoid,
)
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.load import load_encoder
from pointsman.review.calibrate import judge_prompts, unseen
from pointsman.review.traffic import Labelled
from pointsman.router.snapshot import Matcher, build_snapshot
from pointsman.settings import load
from pointsman.values.catalog import Artifact, Catalog, Intent, Specialist

RISK, CONFIDENCE = 0.02, 0.95
LABELS = (200, 500, 1000, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data(parser)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write, too")
    arguments = parser.parse_args()
    check_data(parser, arguments.data, CLINC, DOMAINS)
    data = read_clinc(arguments.data)
    domains = read_domains(arguments.data)
    settings = load()
    encoder = load_encoder(settings.encoder, ArtifactStore(settings.paths.models, Path.cwd()))
    cache = EmbeddingCache(encoder, settings.paths.cache)
    traffic = [
        Labelled(text, intent, labelled=True)
        for key in ("val", "test", "oos_val", "oos_test")
        for text, intent in data[key]
    ]
    rows = []
    with threadpool_limits(limits=1):
        for name, shots in (("full", None), (f"{SHOTS} an intent", SHOTS)):
            catalog = _catalog(data["train"], domains, shots)
            matcher = build_snapshot(catalog, cache, encoder.hash, settings.routing, None).matcher
            assert matcher is not None
            rows += _measure(name, matcher, traffic, cache, arguments.splits)
    headers = ["exemplars", "labels", "promise given", "kept", "wrong specialist, mean", "worst", "local share",
               "ECE", "Brier", "ECE, exemplars alone", "Brier, exemplars alone"]  # fmt: skip
    table = report.table(headers, rows)
    print(table)
    if arguments.out:
        body = f"{report.versions('scikit-learn', 'faiss-cpu', 'onnxruntime')}\n\n{table}\n\n{_LEGEND}"
        report.write(arguments.out, "The promise", body, "python benchmarks/promise.py --data DIR")


_LEGEND = f"""\
{RISK:.0%} risk at {CONFIDENCE:.0%} confidence, in percent; medians over splits where nothing else is said.

- promise given: splits whose labels supported one; in the others everything goes to the cloud.
- kept: splits in which at most {RISK:.0%} of all prompts outside the calibration went to a wrong specialist. The promise is
  about that many (`--prompts`).
- wrong specialist: share of those prompts, mean and worst over the splits.
- local share: of those prompts, answered by a specialist. A seventh to an eighth of them is out of scope.
- ECE (15 bins of equal count) and Brier score of `Decision.confidence` on those prompts: after calibration on
  labels, and from the exemplars alone."""


def _catalog(train: Pairs, domains: dict[str, list[str]], shots: int | None) -> Catalog:
    texts: dict[str, list[str]] = {}
    for text, intent in train:
        texts.setdefault(str(intent), []).append(text.strip())
    of = {intent: domain for domain, intents in domains.items() for intent in intents}
    generator = np.random.default_rng(0)
    intents = []
    for name in sorted(texts):
        order = generator.permutation(len(texts[name]))[:shots]
        intents.append(Intent(name, of[name], tuple(texts[name][i] for i in order)))
    base = Artifact("file:none.gguf", "0" * 64)
    return Catalog(tuple(intents), tuple(Specialist(domain, base) for domain in domains))


def _measure(
    name: str, matcher: Matcher, traffic: Sequence[Labelled], cache: EmbeddingCache, splits: int
) -> list[list[str]]:
    kept, _ = unseen(matcher, traffic)
    verdicts = judge_prompts(matcher, kept, cache.encode([item.text for item in kept]))
    found = []
    for labels in LABELS:
        generator = np.random.default_rng(labels)
        results = [_split(verdicts, generator.permutation(len(kept)), labels) for _ in range(splits)]
        columns = np.array(results).T  # given, wrong, local, ece, brier, ece before, brier before
        given = columns[0] > 0
        found.append(
            [
                name,
                str(labels),
                f"{100 * given.mean():.1f}",
                f"{100 * (columns[1] <= RISK).mean():.1f}",
                f"{100 * columns[1].mean():.2f}",
                f"{100 * columns[1].max():.2f}",
                f"{100 * np.median(columns[2]):.1f}",
                *(f"{np.median(column):.3f}" for column in columns[3:]),
            ]
        )
    return found


def _split(verdicts: Verdicts, order: np.ndarray, labels: int) -> tuple[float, ...]:
    calibration, test = verdicts.rows(order[:labels]), verdicts.rows(order[labels:])
    bound = control_risk(calibration, RISK, CONFIDENCE, len(test.logit))
    slope, intercept = fit_line(calibration.logit, calibration.right)
    local = test.local & (test.logit >= (np.inf if bound.logit is None else bound.logit))
    after, before = sigmoid(slope * test.logit + intercept), sigmoid(test.logit)
    return (
        float(bound.logit is not None),
        float((local & test.wrong).mean()),
        float(local.mean()),
        expected_calibration_error(after, test.right),
        float(((after - test.right) ** 2).mean()),
        expected_calibration_error(before, test.right),
        float(((before - test.right) ** 2).mean()),
    )


if __name__ == "__main__":
    main()
