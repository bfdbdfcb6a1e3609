"""Two snapshots and traffic to what a change of intents does to it: which prompts flip, and what that is worth.

Prompts are judged as they are served, with what was learned beside the exemplars, but one by one and without the
rules of callers; where no intent is accepted the cloud answers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pointsman.catalog.targets import specialist_of
from pointsman.embedding.encoder import Rows
from pointsman.review.changes import Changes
from pointsman.review.price import Price, Prices, price
from pointsman.review.traffic import Labelled
from pointsman.router.snapshot import Snapshot
from pointsman.values.catalog import CLOUD, MID
from pointsman.values.decision import Evidence

_NOT_LOCAL = {CLOUD, MID}


@dataclass(frozen=True, slots=True)
class Route:
    """Where a prompt goes.

    intent: None where none is accepted
    target: a specialist, that of the mid tier too; `cloud`; or `mid`, where a model of the cloud is the mid tier
    """

    intent: str | None
    target: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How all prompts fare in one catalog.

    local: prompts that a specialist answers
    right: labelled prompts with the intent asked for, or refused where that is out of scope
    wrong_specialist: labelled prompts that a specialist answers which should not
    price: None without prices
    """

    local: int
    right: int
    wrong_specialist: int
    price: Price | None


@dataclass(frozen=True, slots=True)
class Flip:
    """Prompts that go the same new way.

    mended, broken: labelled ones that became right, or wrong
    misrouted: labelled ones that a specialist answers only now, and which should not
    examples: texts, broken ones first, then misrouted ones
    """

    before: Route
    after: Route
    count: int
    mended: int
    broken: int
    misrouted: int
    examples: tuple[str, ...]

    @property
    def rerouted(self) -> bool:
        """Whether somebody else answers; else only the intent is another."""
        return self.before.target != self.after.target


@dataclass(frozen=True, slots=True)
class TrafficDiff:
    """What a change does to n prompts, some of them labelled. `flips` are in order of weight."""

    prompts: int
    labelled: int
    before: Standing
    after: Standing
    flips: tuple[Flip, ...]

    @property
    def flipped(self) -> int:
        """Prompts that flip."""
        return sum(flip.count for flip in self.flips)

    @property
    def mended(self) -> int:
        """Labelled prompts that became right."""
        return sum(flip.mended for flip in self.flips)

    @property
    def broken(self) -> int:
        """Labelled prompts that became wrong."""
        return sum(flip.broken for flip in self.flips)


@dataclass(frozen=True, slots=True)
class Diff:
    """A whole comparison. `traffic` is None where none was given; `notes` say what figures do not allow for."""

    old: str
    new: str
    changes: Changes
    traffic: TrafficDiff | None
    notes: tuple[str, ...] = ()

    def worse(self, tolerance: float) -> tuple[str, ...]:
        """Return in words what got worse; accuracy may drop by `tolerance`, a share of labelled prompts."""
        traffic = self.traffic
        if traffic is None or not traffic.labelled:
            return ()
        found = []
        lost = traffic.before.right - traffic.after.right
        if lost / traffic.labelled > tolerance:
            found.append(f"{lost} fewer of {traffic.labelled} labelled prompts are right")
        more = traffic.after.wrong_specialist - traffic.before.wrong_specialist
        if more > 0:
            found.append(f"{more} more go to a wrong specialist")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class _Judged:
    """How n prompts fare in one catalog. `right` is None where there is no label; `misrouted` is false then."""

    routes: Sequence[Route]
    right: Sequence[bool | None]
    misrouted: Sequence[bool]


def diff_traffic(
    traffic: Sequence[Labelled],
    rows: Rows,
    old: Snapshot,
    new: Snapshot,
    renames: Mapping[str, str],
    prices: Prices | None = None,
    examples: int = 3,
) -> TrafficDiff:
    """Route prompts with their unit rows (n, d) by both snapshots; n is at least one.

    A label that a catalog does not have is out of scope in it.

    renames: new names by old ones; a renamed intent is the same one, and labels may use either name
    examples: most texts to show of prompts that flip alike
    """
    before = _judge(traffic, rows, old, {now: was for was, now in renames.items()})
    after = _judge(traffic, rows, new, renames)
    groups: dict[tuple[Route, Route], list[int]] = defaultdict(list)
    for i, (was, now) in enumerate(zip(before.routes, after.routes, strict=True)):
        if Route(was.intent and renames.get(was.intent, was.intent), was.target) != now:
            groups[was, now].append(i)
    flips = (_flip(numbers, traffic, before, after, examples) for numbers in groups.values())
    texts = [item.text for item in traffic]
    return TrafficDiff(
        prompts=len(traffic),
        labelled=sum(item.labelled for item in traffic),
        before=_standing(before, texts, prices),
        after=_standing(after, texts, prices),
        flips=tuple(
            sorted(flips, key=lambda f: (-f.broken, -f.misrouted, not f.rerouted, -f.count, str(f.before)))
        ),
    )


def _judge(traffic: Sequence[Labelled], rows: Rows, snapshot: Snapshot, names: Mapping[str, str]) -> _Judged:
    """Judge prompts by one snapshot; `names` are those that it has for the labels of the other one."""
    target_of = {intent.name: _answering(intent.target, snapshot) for intent in snapshot.catalog.intents}
    asked: dict[str | None, Route] = {None: Route(None, CLOUD)}
    for label in {item.intent for item in traffic if item.intent is not None}:
        name = names.get(label, label)
        asked[label] = Route(name, target_of[name]) if name in target_of else Route(None, CLOUD)
    routes = _routes(snapshot, rows, [item.text for item in traffic])
    pairs = list(zip(traffic, routes, strict=True))
    return _Judged(
        routes,
        [route.intent == asked[item.intent].intent if item.labelled else None for item, route in pairs],
        [
            item.labelled and route.target not in _NOT_LOCAL | {asked[item.intent].target}
            for item, route in pairs
        ],
    )


def _routes(snapshot: Snapshot, rows: Rows, texts: Sequence[str]) -> list[Route]:
    """Return where each of n prompts with unit rows (n, d) goes."""
    matcher = snapshot.matcher
    if matcher is None:
        return [Route(None, CLOUD)] * len(rows)
    return [_route(matcher.judge(row, text), snapshot) for row, text in zip(rows, texts, strict=True)]


def _route(evidence: Evidence, snapshot: Snapshot) -> Route:
    if not evidence.accepted:
        return Route(None, CLOUD)
    target = _answering(evidence.target or CLOUD, snapshot)
    if evidence.hardness is not None and not evidence.hardness.local:  # up a tier, as `decide` does it
        above = _answering(MID, snapshot) if snapshot.setup.mid else CLOUD
        target = above if above != target else CLOUD
    return Route(evidence.intent, target)


def _answering(target: str, snapshot: Snapshot) -> str:
    return specialist_of(target, snapshot.setup.mid) or target


def _standing(judged: _Judged, texts: Sequence[str], prices: Prices | None) -> Standing:
    local = np.array([route.target not in _NOT_LOCAL for route in judged.routes], np.bool_)
    return Standing(
        local=int(local.sum()),
        right=sum(value is True for value in judged.right),
        wrong_specialist=sum(judged.misrouted),
        price=price(texts, local, prices) if prices else None,
    )


def _flip(
    numbers: Sequence[int], traffic: Sequence[Labelled], before: _Judged, after: _Judged, examples: int
) -> Flip:
    broken = [i for i in numbers if before.right[i] is True and after.right[i] is False]
    mended = [i for i in numbers if before.right[i] is False and after.right[i] is True]
    misrouted = [i for i in numbers if after.misrouted[i] and not before.misrouted[i]]
    texts = dict.fromkeys(traffic[i].text for i in (*broken, *misrouted, *numbers))
    return Flip(
        before.routes[numbers[0]],
        after.routes[numbers[0]],
        len(numbers),
        len(mended),
        len(broken),
        len(misrouted),
        tuple(texts)[:examples],
    )
