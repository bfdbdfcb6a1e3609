"""Past decisions to those of a proposed configuration: what flips, what it costs, what quality is to be expected.

Scores of the same exemplars are not computed anew: what the ledger knows of a prompt is judged by the new thresholds,
rules and promises. Other exemplars need the prompt itself, and the encoder; no language model is asked for anything.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pointsman.decision.decide import decide
from pointsman.decision.escalate import may_escalate
from pointsman.embedding.encoder import Rows
from pointsman.errors import PointsmanError
from pointsman.policy.rules import rule
from pointsman.review.replay_case import REFUSED, Case, went_to
from pointsman.router.snapshot import Matcher, Snapshot
from pointsman.values.catalog import CLOUD
from pointsman.values.decision import Evidence, Reason
from pointsman.values.ledger import Past
from pointsman.values.policy import PLACEHOLDER, STRICTNESS, Action, Policy, Screening, Span
from pointsman.values.price import PriceList
from pointsman.values.request import BYTES_PER_TOKEN, Constraints, Message, Request, Role, Tier

LEAST = 20
"""Past answers from which a rate is taken."""
_SEED = 0


Embed = Callable[[Sequence[str]], Rows]
Find = Callable[[str], Sequence[Span]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one configuration. `cost` and `quality` are None where they are not known."""

    local_share: float
    cost: float | None
    quality: float | None


@dataclass(frozen=True, slots=True)
class Flip:
    """Requests that go the same new way; `refused` stands for those that would get an error.

    examples: request ids, each with its prompt where the ledger has it
    """

    before: str
    after: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """All of it.

    recorded: decisions that the ledger has; decisions: those that were replayed, a sample where there were too many
    known: decided by what the ledger knows; embedded: by their prompts; kept: neither was there, so they stay as they were
    moved: answers that stood so far, and that the proposed cascade would move to the cloud
    judged: answers that the qualities are means over; unpredicted: those that go where nothing is known of
    unpriced: why costs are not known; empty where they are
    """

    recorded: int
    decisions: int
    known: int
    embedded: int
    kept: int
    moved: int
    before: Standing
    after: Standing
    judged: int
    unpredicted: int
    currency: str
    unpriced: str
    flips: tuple[Flip, ...]

    @property
    def flipped(self) -> int:
        """Requests that go elsewhere."""
        return sum(flip.count for flip in self.flips)


def rescreened(past: Past, policy: Policy, find: Find, *, known: bool = True) -> Past:
    """Return a past decision with what another policy says of its prompt, as the ledger has it.

    What the policy of its time named stands there as placeholders. The turns before it are not there: where it
    named nothing in the prompt, what it said then holds at least. known: whether callers show who they are
    """
    prompt = past.prompt or ""
    names = {kind.upper(): kind for kind in policy.kinds}
    stored = {names.get(name, "") for name in PLACEHOLDER.findall(prompt)}
    kinds = stored | {span.kind for span in find(prompt)}
    if not kinds:
        return past
    actions = [policy.action(kind, past.caller, known=known) for kind in kinds]
    if not stored:  # what the policy of its time said was then of an earlier turn
        actions.append(Action(past.asked.get("policy", Action.ALLOW)))
    action = max(actions, key=STRICTNESS.index)
    return replace(past, asked={**past.asked, "policy": action})


def replay(
    pasts: Sequence[Past],
    snapshot: Snapshot,
    prices: PriceList,
    embed: Embed,
    *,
    most: int = 10_000,
    examples: int = 3,
    cascade: bool = True,
    progress: Progress = lambda _done, _total: None,
) -> Replay:
    """Decide past requests anew.

    most: prompts that are embedded at most; where more would have to be, a random sample of all requests is replayed
    cascade: whether the proposal judges local answers at all
    """
    cases = _prepared(pasts, snapshot)
    wanted = {case.past.prompt for case in cases if case.by == "embedded"}
    if len(wanted) > most:
        share = most / len(wanted)
        cases = random.Random(_SEED).sample(cases, int(len(cases) * share))  # noqa: S311 - a sample
        wanted = {case.past.prompt for case in cases if case.by == "embedded"}
    _embed(cases, sorted(text for text in wanted if text), snapshot, embed)
    for number, case in enumerate(cases, 1):
        _decide(case, snapshot)
        case.moves = cascade and _moves(case, snapshot)
        if number % 1000 == 0 or number == len(cases):
            progress(number, len(cases))
    specialists = {s.name for s in snapshot.catalog.specialists}
    costs = _Costs(pasts, snapshot, prices)
    quality = _qualities(pasts, cases, snapshot.setup.cloud_model)
    return Replay(
        recorded=len(pasts),
        decisions=len(cases),
        **{by: sum(case.by == by for case in cases) for by in ("known", "embedded", "kept")},
        moved=sum(case.moves for case in cases),
        before=Standing(
            _share([bool(case.past.routed_to) for case in cases]), costs.before(cases), quality.before
        ),
        after=Standing(
            _share([case.after in specialists for case in cases]), costs.after(cases), quality.after
        ),
        judged=quality.judged,
        unpredicted=quality.unpredicted,
        currency=prices.currency,
        unpriced=costs.why,
        flips=tuple(_flips(cases, examples)),
    )


def _prepared(pasts: Iterable[Past], snapshot: Snapshot) -> list[Case]:
    matcher = snapshot.matcher
    labels = {intent.name: i for i, intent in enumerate(snapshot.catalog.intents)}
    cases = []
    for past in pasts:
        case = Case(past)
        cases.append(case)
        if past.asked.get("policy") == Action.REFUSE:
            case.after = REFUSED
            continue
        try:
            case.ruling = rule(
                _request(past), snapshot.catalog, snapshot.cloud_task_types, snapshot.setup.mid
            )
        except PointsmanError:
            case.after = REFUSED
            continue
        if not case.ruling.needs_similarity or matcher is None:
            case.evidence = Evidence()
        elif (evidence := _known(past, matcher, labels)) is not None:
            case.evidence = evidence
        elif past.prompt and not _follows(past):
            case.by = "embedded"
        else:  # a follow-up depends on turns that the ledger does not have
            case.by, case.after = "kept", case.before
    return cases


def _request(past: Past) -> Request:
    """Return a request that rules judge as they judged this one: as long, with what it fixed."""
    asked = past.asked
    tier = asked.get("tier")
    stays = asked.get("policy") == Action.STAY_LOCAL
    constraints = Constraints(
        specialist=asked.get("specialist"),
        tier=Tier(tier) if tier else None,
        task_type=asked.get("task_type"),
        local_only=bool(asked.get("local_only")) or stays,
        output_tokens=asked.get("output_tokens", 0),
    )
    filler = Message(Role.USER, "x" * (BYTES_PER_TOKEN * asked.get("tokens", 0)))
    screening = Screening(Action(asked.get("policy", Action.ALLOW)))
    return Request(
        (filler,), constraints, caller=past.caller, budget_s=asked.get("budget_s"), screening=screening
    )


def _follows(past: Past) -> bool:
    return bool(past.asked.get("follow_up")) or past.reason == Reason.FOLLOW_UP


def _known(past: Past, matcher: Matcher, labels: Mapping[str, int]) -> Evidence | None:
    """Return what the ledger knows, under the thresholds and the promise of the matcher; None where it is not enough."""
    label = labels.get(past.intent)
    if past.scorer != matcher.scorer or label is None or past.score is None or past.confidence_alone is None:
        return None
    evidence = Evidence(
        intent=past.intent,
        target=matcher.catalog.intents[label].target,
        similarity=past.similarity or 0.0,
        score=past.score,
        threshold=matcher.threshold(label),
        confidence=matcher.confidence(past.confidence_alone),
        confidence_alone=past.confidence_alone,
        required_confidence=matcher.required_confidence,
        follow_up=_follows(past),
        scorer=past.scorer,
    )
    difficulty = matcher.learned.difficulty
    if difficulty is None or not difficulty.on or not evidence.accepted or evidence.target == CLOUD:
        return evidence
    if past.difficulty is None:
        return None
    hardness = matcher.hardness(past.difficulty, past.intent)
    return replace(evidence, hardness=hardness) if past.hardness_by == hardness.by else None


def _embed(cases: Sequence[Case], texts: Sequence[str], snapshot: Snapshot, embed: Embed) -> None:
    matcher = snapshot.matcher
    if not texts or matcher is None:
        return
    found = {text: matcher.judge(row, text) for text, row in zip(texts, embed(texts), strict=True)}
    for case in cases:
        if case.by == "embedded":
            case.evidence = found[case.past.prompt or ""]


def _decide(case: Case, snapshot: Snapshot) -> None:
    if case.after is not None or case.ruling is None or case.evidence is None:
        return
    try:
        decision = decide(case.ruling, case.evidence, snapshot.setup)
    except PointsmanError:
        case.after = REFUSED
        return
    case.after = decision.specialist or decision.model


def _moves(case: Case, snapshot: Snapshot) -> bool:
    """Whether an answer that stood, and stays where it was, would move to the cloud by the confidence that it had.

    What moved so far moves again: how sure the local answer was is not known of those.
    """
    past, learned = case.past, snapshot.cascade
    known = past.answer_confidence is not None and past.specialist == case.after
    if learned is None or not known or past.outcome == "escalated" or case.ruling is None:
        return False
    specialist = snapshot.catalog.specialist(past.specialist)
    model = (
        learned.model(past.specialist, specialist.answers_hash) if specialist and specialist.cascade else None
    )
    may = may_escalate(_request(past), case.ruling, snapshot.setup)
    return model is not None and may and (past.answer_confidence or 0.0) < model.required_confidence


class _Costs:
    """What answers cost where they went, and where they would go."""

    def __init__(self, pasts: Sequence[Past], snapshot: Snapshot, prices: PriceList) -> None:
        self._prices = prices
        self._specialists = {s.name for s in snapshot.catalog.specialists}
        self._cloud = snapshot.setup.cloud_model
        self.why = ""
        answered: dict[str, list[bool]] = defaultdict(list)
        for past in pasts:
            if past.routed_to and past.good is not None:
                answered[past.routed_to].append(past.outcome == "escalated")
        self._escalated = {name: sum(all_of) / len(all_of) for name, all_of in answered.items()}

    def before(self, cases: Sequence[Case]) -> float | None:
        """Return what was charged."""
        charged = [(case.past.cost, case.past.currency) for case in cases if case.past.cost is not None]
        if others := sorted({currency for _, currency in charged} - {self._prices.currency}):
            self.why = (
                f"the ledger has costs in {', '.join(others)}, and prices are in {self._prices.currency}"
            )
            return None
        unpriced = [case.past for case in cases if self._cloud_answered(case) and case.past.cost is None]
        if unpriced:
            silent = all(past.completion_tokens == past.prompt_tokens == 0 for past in unpriced)
            self.why = (
                "some answers of the cloud came without a count of their tokens"
                if silent
                else "some answers of the cloud were given while their model had no price"
            )
            return None
        return sum(cost for cost, _ in charged)

    def after(self, cases: Sequence[Case]) -> float | None:
        """Return what would be charged: by the new prices, for the tokens that each answer took."""
        total = 0.0
        for case in cases:
            past, after = case.past, case.after or REFUSED
            if past.completion_tokens is None or after == REFUSED:
                continue
            local = after in self._specialists
            model = self._cloud if local else after
            if local and after == case.before:
                share = float(past.outcome == "escalated" or case.moves)
            else:
                share = self._escalated.get(after, 0.0) if local else 1.0
            if not share or model is None:
                continue
            price = self._prices.models.get(model)
            if price is None:
                self.why = self._prices.missing(model)
                return None
            # What a local cache had says nothing of the cloud's.
            cached = 0 if past.specialist else past.cached_tokens or 0
            total += share * price.amount(past.prompt_tokens or 0, cached, past.completion_tokens)
        return total

    @staticmethod
    def _cloud_answered(case: Case) -> bool:
        past = case.past
        return past.tier != Tier.LOCAL and not past.specialist and past.completion_tokens is not None


@dataclass(frozen=True, slots=True)
class _Quality:
    before: float | None
    after: float | None
    judged: int
    unpredicted: int


def _qualities(pasts: Sequence[Past], cases: Sequence[Case], cloud: str | None) -> _Quality:
    """Return the share of good answers, before and after: of those that stay as they were, the rest by where they go."""
    by_target: dict[str, list[bool]] = defaultdict(list)
    for past in pasts:
        if past.good is not None:
            by_target[went_to(past)].append(past.good)
    rates = {name: sum(found) / len(found) for name, found in by_target.items() if len(found) >= LEAST}
    before, after, unpredicted = [], [], 0
    for case in cases:
        good = case.past.good
        if good is None:
            continue
        expected = float(good) if case.after == case.before else rates.get(case.after or REFUSED)
        if case.moves:
            expected = rates.get(cloud or "")
        if case.after == REFUSED:
            expected = 0.0
        if expected is None:
            unpredicted += 1
        else:
            before.append(float(good))
            after.append(expected)
    if not before:
        return _Quality(None, None, 0, unpredicted)
    return _Quality(sum(before) / len(before), sum(after) / len(after), len(before), unpredicted)


def _flips(cases: Sequence[Case], examples: int) -> Iterable[Flip]:
    groups: dict[tuple[str, str], list[Past]] = defaultdict(list)
    for case in cases:
        if case.after is not None and case.after != case.before:
            groups[case.before, case.after].append(case.past)
    for (before, after), pasts in sorted(groups.items(), key=lambda item: -len(item[1])):
        shown = tuple((past.request_id, past.prompt or "") for past in pasts[:examples])
        yield Flip(before, after, len(pasts), shown)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
