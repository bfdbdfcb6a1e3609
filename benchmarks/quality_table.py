"""Figures of benchmarks/quality.py to Markdown. Knows no data and no router."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

import report

OURS, PEER = "pointsman", "semantic-router"
PEERS = {"mean": "its default", "max": "nearest neighbour", "chosen": "best on the fit texts"}
THRESHOLDS = {
    "best": "best on the fit texts",
    "default": "0.5",
    "isotonic": "0.5, isotonic",
    "nominal": "refuses 5 % of the fit texts",
}
REJECTED_AIM = (3.0, 8.0)
_SIZES = {"full": "full", "few": "10 an intent"}


@dataclass(frozen=True, slots=True)
class Aim:
    """In percent, at least; NaN where there is none."""

    accuracy: float
    auroc: float = float("nan")
    joint: float = float("nan")

    def __str__(self) -> str:
        wanted = [getattr(self, field.name) for field in fields(self)]
        return " / ".join(f"{value:g}" for value in wanted if not np.isnan(value))


AIMS = {
    ("CLINC150", "full"): Aim(95, 97.8, 90.5),
    ("CLINC150", "few"): Aim(90.5, 96.8, 87),
    ("BANKING77", "full"): Aim(93.3),
    ("BANKING77", "few"): Aim(86),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares in [0, 1], but `fit_s`; NaN where a figure does not exist."""

    accuracy: float
    auroc: float
    joint: float
    rejected: float
    accepted_outside: float
    fit_s: float
    ece_inside: float
    brier_inside: float
    ece: float
    brier: float


@dataclass(frozen=True, slots=True)
class Peer:
    """One setting of semantic-router: what it is, and its figures by threshold."""

    setting: str
    figures: dict[str, Figures]


@dataclass(frozen=True, slots=True)
class Result:
    """One draw of exemplars. `peers` is empty where there was no peer to run.

    one_head, nameless: with second head and names off, and with names off
    labelled: with confidence fitted on the texts that the peer is fitted on
    """

    ours: Figures
    one_head: Figures
    nameless: Figures
    labelled: Figures
    second_head: bool
    named: bool
    peers: dict[str, Peer]


Results = dict[tuple[str, str], list[Result]]
"""By data set and size; a list has one result a draw."""


def render(results: Results) -> str:
    """Return the tables, what they say of the aims, and what the columns mean."""
    parts = [_quality(results), _verdict(results), f"## Confidence\n\n{_confidence(results)}"]
    if any(result.peers for draws in results.values() for result in draws):
        parts.append(f"## {PEER}: thresholds and time\n\n{_peers(results)}")
    else:
        parts.insert(0, f"**{PEER} was not run; its aims are not judged.**")
    return "\n\n".join([*parts, _LEGEND])


def _quality(results: Results) -> str:
    rows = []
    names = ("accuracy", "auroc", "joint", "rejected")
    for (corpus, size), draws in results.items():
        title = f"{corpus} {_SIZES[size]}"
        rows.append(
            [
                f"**{title}: {OURS}**",
                *_cells([draw.ours for draw in draws], names),
                _on([draw.second_head for draw in draws]),
                _on([draw.named for draw in draws]),
                str(AIMS[corpus, size]),
            ]
        )
        one = _cells([draw.one_head for draw in draws], names)
        rows.append([f"{title}: {OURS}, second head and names off", *one, "off", "off", report.NOTHING])
        if any(draw.named for draw in draws):
            nameless = _cells([draw.nameless for draw in draws], names)
            rows.append([f"{title}: {OURS}, names off", *nameless, report.NOTHING, "off", report.NOTHING])
        for key, figures in _peer_figures(draws).items():
            name = f"{title}: {PEER}, {_setting(draws, key)}"
            rows.append([name, *_cells(figures, names), *[report.NOTHING] * 3])
        if _peer_figures(draws):
            ahead = [f"{100 * _ahead(draws, name):+.1f}" for name in names[:3]]
            ahead = [report.NOTHING if "nan" in cell else cell for cell in ahead]
            filler = [report.NOTHING] * 4
            rows.append([f"{title}: {OURS} ahead of the best of {PEER} by", *ahead, *filler])
    headers = [
        "",
        "accuracy",
        "OOS AUROC",
        "joint accuracy",
        "in-scope rejected",
        "second head",
        "names",
        "aim",
    ]
    return report.table(headers, rows)


def _confidence(results: Results) -> str:
    rows = []
    names = ("ece_inside", "brier_inside", "ece", "brier")
    for (corpus, size), draws in results.items():
        title = f"{corpus} {_SIZES[size]}"
        rows.append([f"**{title}: {OURS}**", *_means([draw.ours for draw in draws], names)])
        labelled = _means([draw.labelled for draw in draws], names)
        rows.append([f"{title}: {OURS}, fitted on the same labels", *labelled])
        rows.extend(
            [f"{title}: {PEER}, {_setting(draws, key)}", *_means(figures, names)]
            for key, figures in _peer_figures(draws).items()
        )
    return report.table(["", "ECE in scope", "Brier in scope", "ECE, all", "Brier, all"], rows)


def _peers(results: Results) -> str:
    rows = []
    for (corpus, size), draws in results.items():
        title = f"{corpus} {_SIZES[size]}"
        seconds = _mean([draw.ours for draw in draws], "fit_s")
        rows.append([f"**{title}: {OURS}**", f"{seconds:.1f}", _pair([draw.ours for draw in draws])]
                    + [report.NOTHING] * (len(THRESHOLDS) - 1))  # fmt: skip
        for key in PEERS if draws[0].peers else ():
            by = {name: [draw.peers[key].figures[name] for draw in draws] for name in THRESHOLDS}
            fit = f"{_mean(by['best'], 'fit_s'):.1f}"
            cells = [_pair(figures) for figures in by.values()]
            rows.append([f"{title}: {PEER}, {_setting(draws, key)}", fit, *cells])
    return report.table(["", "seconds to fit", *THRESHOLDS.values()], rows)


def _verdict(results: Results) -> str:
    """Return which aims are missed, on unrounded figures."""
    missed = []
    for (corpus, size), draws in results.items():
        title = f"{corpus} {_SIZES[size]}"
        ours = [draw.ours for draw in draws]
        for field in fields(Aim):
            aim, found = getattr(AIMS[corpus, size], field.name), 100 * _mean(ours, field.name)
            if found < aim:
                missed.append(f"{title}, {field.name}: {found:.2f}, aim {aim:g}")
        low, high = REJECTED_AIM
        rejected = 100 * _mean(ours, "rejected")
        if not low <= rejected <= high:
            missed.append(f"{title}, in-scope rejected: {rejected:.2f}, aim {low:g}-{high:g}")
        missed += [
            f"{title}, {name}: behind {PEER}"
            for name in ("accuracy", "auroc", "joint")
            if _ahead(draws, name) <= 0
        ]
    return "\n".join(["Missed:", *(f"- {line}" for line in missed)]) if missed else "No aim is missed."


def _peer_figures(draws: Sequence[Result]) -> dict[str, list[Figures]]:
    """Return figures with the threshold that is best for the peer on the texts it was fitted on."""
    return {key: [draw.peers[key].figures["best"] for draw in draws] for key in PEERS if draws[0].peers}


def _setting(draws: Sequence[Result], key: str) -> str:
    settings = dict.fromkeys(draw.peers[key].setting for draw in draws)
    return f"{' / '.join(settings)} ({PEERS[key]})"


def _on(draws: Sequence[bool]) -> str:
    if len(draws) == 1:
        return "on" if draws[0] else "off"
    return f"on in {sum(draws)} of {len(draws)}"


def _ahead(draws: Sequence[Result], name: str) -> float:
    """Return our mean less that of the peer's best setting and threshold for this figure; NaN without a peer."""
    peers = [
        _mean([draw.peers[key].figures[threshold] for draw in draws], name)
        for key in draws[0].peers
        for threshold in THRESHOLDS
    ]
    return _mean([draw.ours for draw in draws], name) - max(peers, default=float("nan"))


def _mean(figures: Sequence[Figures], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in figures]))


def _means(figures: Sequence[Figures], names: Sequence[str]) -> list[str]:
    return [_number(_mean(figures, name), "{:.3f}".format) for name in names]


def _pair(figures: Sequence[Figures]) -> str:
    cells = [_number(100 * _mean(figures, name), "{:.1f}".format) for name in ("joint", "rejected")]
    return " / ".join(cells)


def _number(value: float, show: Callable[[float], str]) -> str:
    return report.NOTHING if np.isnan(value) else show(value)


def _cells(figures: Sequence[Figures], names: Sequence[str]) -> list[str]:
    return [_cell([100 * getattr(one, name) for one in figures]) for name in names]


def _cell(percent: Sequence[float]) -> str:
    if np.isnan(percent).any():
        return report.NOTHING
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{np.mean(percent):.1f} ({min(percent):.1f}-{max(percent):.1f})"


_LEGEND = f"""\
In percent; confidence as shares. With 10 exemplars an intent: the mean over seeds 0, 1, 2, and in brackets the \
least and the greatest.

- {OURS}: `ExemplarIndex` and `calibrate` as shipped, at a nominal rejection of 5 %. Threshold, second head and \
confidence come from exemplars and names alone; no other label and no out-of-scope prompt is seen before the test.
- second head, names: on where they win in cross-fitting on the exemplars. Names: the name of each class, as words \
(`card_arrival`: “card arrival”), is one more exemplar of it, that helps it to be chosen.
- accuracy: in-scope test prompts whose best class is right, rejection left aside.
- OOS AUROC: how often an in-scope test prompt is surer than an out-of-scope one. Surer: score less the class's \
offset ({OURS}), score of the best route ({PEER}).
- joint accuracy: over in-scope and out-of-scope test prompts together; right is an accepted prompt with the right \
intent, or a rejected out-of-scope prompt.
- in-scope rejected: in-scope test prompts below the threshold.
- aim: accuracy / OOS AUROC / joint accuracy, at least; in-scope rejected 3-8; ahead of {PEER} in each of the three. \
Of means over the seeds.
- ECE: mean distance of confidence and truth over 15 bins of equal count. Brier: mean squared distance. 'All' takes \
in out-of-scope test prompts, for which no class is right.
- fitted on the same labels: as `pointsman calibrate --data` fits confidence, on the labelled texts that {PEER} is \
fitted on. From exemplars alone, confidence reckons with one prompt in ten out of scope: in scope it is too low.

**{PEER}** is aurelio semantic-router 1.1.1 (`IndexedRouter`, `LocalIndex`) on the same vectors of the same \
exemplars, after its own `fit` (Platt), which needs labelled texts that are not exemplars. It has the names as \
utterances, too, where that does better on those texts ('with names'). It has more labels than {OURS} has:

- CLINC150: 6 validation prompts an intent and the 200 out-of-scope prompts of the training and validation splits: \
the mixture of the test, so that its thresholds meet what they were fitted for. More in-scope prompts would only \
teach it to expect fewer out of scope.
- BANKING77: up to 20 training texts an intent; at 10 an intent, those that are not exemplars; in full, a fifth of \
the exemplars at most, which it holds again after the fit. There is nothing out of scope to fit on: its best \
threshold refuses next to nothing.
- Settings: its default; the greatest, which is plain nearest neighbour; and the aggregation (mean, max, sum), \
`top_k` (3 to 50) and curve (Platt, isotonic) that do best on the fit texts.
- Thresholds: `fit` finds confidences, the threshold is the user's. In the first table it is the one with which the \
joint accuracy on the fit texts is greatest. The last table has others, as joint accuracy / in-scope rejected: 0.5, \
which its quickstart sets; 0.5 with isotonic confidence; the 5 % quantile of confidence on in-scope fit texts. Ours \
stands in the first of these columns.
- Test queries are scored for many at a time; on 200 of them, class and confidence are asserted to be those of \
`router(text)`, and on all fit texts the confidence to be that of `fit`.
- ahead of the best of {PEER}: of all its settings and, for joint accuracy, of all thresholds in the last table, \
picked on the test.
- seconds to fit: `calibrate` and `ExemplarIndex` ({OURS}), `fit` without the index ({PEER}); one BLAS thread, \
once, other work on the machine: orders of magnitude."""
