"""A log of calls to what of it could be answered locally: groups, figures, first candidates, and whether it is worth it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.catalog.file_model import MAX_TEXT
from pointsman.catalog.schema import normalise
from pointsman.embedding.encoder import Rows
from pointsman.review.call_log import Call
from pointsman.review.clusters import Cluster, clusters_of
from pointsman.review.imports import intent_name
from pointsman.router.snapshot import Matcher
from pointsman.values.catalog import CLOUD, Catalog, Intent
from pointsman.values.price import PriceList

MOST_CANDIDATES = 3
_MOST_EXEMPLARS = 40
_EXAMPLES = 5
_NAME_WORDS = 6
_LEAST = 8
_LEAST_SHARE = 0.005
_MONTH_S = 365.25 / 12 * 86400
_LEAST_SPAN_S = 86400.0
_WORTH = 0.1
_SAFE_WRONG, _RISKY_WRONG = 0.02, 0.05
_ROUTINE_MARK, _OUTPUT_MARK = 0.7, 0.6
"""Shares from which routine work and output tokens make a good candidate (mission, row D9)."""
_SHORT, _LONG = 150, 400
"""Output tokens up to which a small model is rarely out of its depth, and above which it often is."""

Match = Callable[[Catalog], Matcher]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A group of prompts that ask the same thing.

    name: of the drafted intent, by the most central prompt; examples: the most central ones
    calls: of the log; share: of all calls; output_tokens: mean of an answer; cost: of the calls, None without prices
    alike: mean cosine of the answers' embeddings to their mean; None without answers
    found: share of its prompts that an intent drafted from half of them finds, of the other half
    wrong: share of what that intent takes from the whole log that is not of the group
    saving: what answering it locally saves in the time of the log, of what is found; None without prices
    """

    name: str
    examples: tuple[str, ...]
    members: tuple[int, ...]
    calls: int
    share: float
    output_tokens: float
    cost: float | None
    alike: float | None
    found: float
    wrong: float
    saving: float | None

    @property
    def risk(self) -> str:
        """`low`, `medium` or `high`: by wrong routes, and by how long answers are."""
        if self.wrong > _RISKY_WRONG or self.output_tokens > _LONG:
            return "high"
        return "low" if self.wrong <= _SAFE_WRONG and self.output_tokens <= _SHORT else "medium"


@dataclass(frozen=True, slots=True)
class Audit:
    """Of a log.

    routine: share of calls in groups; output_share: of all tokens
    cost: of the log; None where a model has no price, which `unpriced` names
    months: that the log spans; None where it does not say, or spans less than a day
    candidates: every group, those to begin with first; chosen: how many those are
    """

    calls: int
    counted: int
    routine: float
    output_share: float
    currency: str
    cost: float | None
    unpriced: str
    months: float | None
    candidates: tuple[Candidate, ...]
    chosen: int
    local_monthly: float
    verdict: str

    @property
    def marks(self) -> tuple[bool, bool]:
        """Whether the shares of routine work and of output tokens are those of a good candidate."""
        return self.routine > _ROUTINE_MARK, self.output_share > _OUTPUT_MARK


def audit(calls: Sequence[Call], rows: Rows, answers: Rows, prices: PriceList, match: Match) -> Audit:
    """Look for routine work in calls (n).

    rows: of the prompts, (n, d); answers: of the answers, (n, d), of which those without one are not read
    match: makes the matcher of drafted intents
    """
    costs, unpriced = _costs(calls, prices)
    least = max(_LEAST, round(_LEAST_SHARE * len(calls)))
    groups = clusters_of(rows, least)
    found = _candidates(calls, rows, answers, groups, costs, match) if groups else []
    found.sort(key=lambda c: (c.risk == "high", -(c.saving if c.saving is not None else c.share)))
    chosen = min(MOST_CANDIDATES, sum(candidate.risk != "high" for candidate in found))
    times = [call.time for call in calls if call.time is not None]
    span = max(times) - min(times) if times else 0.0
    months = span / _MONTH_S if span >= _LEAST_SPAN_S else None
    prompt, output = (
        sum(getattr(call, f"{name}_tokens") for call in calls) for name in ("prompt", "completion")
    )
    cost = None if costs is None else float(costs.sum())
    monthly = prices.local.monthly
    return Audit(
        calls=len(calls),
        counted=sum(call.counted for call in calls),
        routine=sum(candidate.calls for candidate in found) / len(calls),
        output_share=output / (prompt + output) if prompt + output else 0.0,
        currency=prices.currency,
        cost=cost,
        unpriced=unpriced,
        months=months,
        candidates=tuple(found),
        chosen=chosen,
        local_monthly=monthly,
        verdict=_verdict(found[:chosen], found, cost, months, monthly, prices.currency),
    )


def intents_of(candidates: Sequence[Candidate], calls: Sequence[Call]) -> tuple[Intent, ...]:
    """Return drafts: the most central prompts of each, every prompt once. Their target is the cloud, as before."""
    return tuple(
        Intent(candidate.name, CLOUD, _exemplars([calls[i].prompt for i in candidate.members]))
        for candidate in candidates
    )


def _costs(calls: Sequence[Call], prices: PriceList) -> tuple[NDArray[np.float64] | None, str]:
    costs = np.zeros(len(calls))
    for i, call in enumerate(calls):
        price = prices.models.get(call.model)
        if price is None:
            return None, prices.missing(call.model)
        costs[i] = price.amount(call.prompt_tokens, call.cached_tokens, call.completion_tokens)
    return costs, ""


def _candidates(
    calls: Sequence[Call],
    rows: Rows,
    answers: Rows,
    groups: Sequence[Cluster],
    costs: NDArray[np.float64] | None,
    match: Match,
) -> list[Candidate]:
    names = _names([calls[group.members[0]].prompt for group in groups])
    found, wrong = _tried(calls, rows, groups, names, match)
    candidates = []
    for k, group in enumerate(groups):
        members = group.members
        cost = None if costs is None else float(costs[members].sum())
        examples = dict.fromkeys(" ".join(calls[i].prompt.split()) for i in members[: 4 * _EXAMPLES])
        candidates.append(
            Candidate(
                name=names[k],
                examples=tuple(list(examples)[:_EXAMPLES]),
                members=tuple(members.tolist()),
                calls=len(members),
                share=len(members) / len(calls),
                output_tokens=float(np.mean([calls[i].completion_tokens for i in members])),
                cost=cost,
                alike=_alike(answers[[i for i in members if calls[i].answer.strip()]]),
                found=found[k],
                wrong=wrong[k],
                saving=None if cost is None else cost * found[k],
            )
        )
    return candidates


def _tried(
    calls: Sequence[Call], rows: Rows, groups: Sequence[Cluster], names: Sequence[str], match: Match
) -> tuple[list[float], list[float]]:
    """Draft intents from every second prompt of each group, and try them on all that they do not hold."""
    owner = np.full(len(calls), -1)
    intents, held = [], set()
    for k, group in enumerate(groups):
        owner[group.members] = k
        exemplars = _exemplars([calls[i].prompt for i in group.members[::2]])
        held |= {normalise(text) for text in exemplars}
        intents.append(Intent(names[k], CLOUD, exemplars))
    matcher = match(Catalog(intents=tuple(intents)))
    taken, right, whole = (np.zeros(len(groups)) for _ in range(3))
    for i, call in enumerate(calls):
        if normalise(call.prompt) in held:
            continue
        if owner[i] >= 0:
            whole[owner[i]] += 1
        evidence = matcher.match(rows[i])
        if evidence.accepted:
            k = names.index(evidence.intent or "")
            taken[k] += 1
            right[k] += owner[i] == k
    found = np.where(whole > 0, right / np.maximum(whole, 1), 0.0)
    wrong = np.where(taken > 0, 1 - right / np.maximum(taken, 1), 0.0)
    return found.tolist(), wrong.tolist()


def _exemplars(prompts: Sequence[str]) -> tuple[str, ...]:
    once = {normalise(text): text for text in reversed(prompts) if text.strip() and len(text) <= MAX_TEXT}
    return tuple(reversed(once.values()))[:_MOST_EXEMPLARS]


def _names(centres: Sequence[str]) -> list[str]:
    names: list[str] = []
    for text in centres:
        name = intent_name(" ".join(text.split()[:_NAME_WORDS])) or "group"
        number = sum(other == name or other.startswith(f"{name}__") for other in names)
        names.append(f"{name}__{number + 1}" if number else name)
    return names


def _alike(rows: Rows) -> float | None:
    return float(np.linalg.norm(rows.mean(axis=0))) if len(rows) else None


def _verdict(
    chosen: Sequence[Candidate],
    found: Sequence[Candidate],
    cost: float | None,
    months: float | None,
    monthly: float,
    currency: str,
) -> str:
    if not found:
        return "Not worth it: no group of prompts asks the same thing often enough."
    if not chosen:
        return "Not worth it yet: every group has long answers, or is taken for others too often."
    return _money(chosen, cost, months, monthly, currency)


def _money(
    chosen: Sequence[Candidate], cost: float | None, months: float | None, monthly: float, currency: str
) -> str:
    if cost is None:
        return "What it saves is not known, for want of prices."
    saving = sum(candidate.saving or 0.0 for candidate in chosen)
    if not cost:
        return "Not worth it: the calls cost nothing."
    if saving < _WORTH * cost:
        return f"Not worth it for the money: the first candidates are {saving / cost:.1%} of the bill."
    if months is None:
        return f"They save {saving / cost:.0%} of the bill, less what local machines cost; the log does not say of how long."
    a_month = saving / months
    if a_month <= monthly:
        return f"Not worth it: they save {currency} {a_month:,.2f} a month, and the local machines cost {monthly:,.2f}."
    told = (
        f", less {currency} {monthly:,.2f} for local machines"
        if monthly
        else "; prices.yaml states no local costs"
    )
    return f"Worth it: they save {currency} {a_month:,.2f} a month ({saving / cost:.0%} of the bill){told}."


def lines(found: Audit) -> Iterator[str]:
    """Yield the page, as Markdown."""
    yield f"# {found.calls:,} calls"
    yield ""
    yield f"**{found.verdict}**"
    yield ""
    routine, output = found.marks
    yield (
        f"- Routine work: {found.routine:.1%} of the calls, in {len(found.candidates)} groups that ask the same thing; "
        f"{_mark(routine, _ROUTINE_MARK)}{'' if routine else ': most of what the rest costs stays'}."
    )
    yield (
        f"- Output tokens are {found.output_share:.1%} of all; {_mark(output, _OUTPUT_MARK)}"
        f"{'' if output else ': long prompts cost too, and prompt caching may save as much as a local model'}."
    )
    if found.cost is not None:
        span = f"{found.months:.1f} months" if found.months else "a time that the log does not tell"
        yield f"- They cost {found.currency} {found.cost:,.2f} over {span}."
    else:
        yield f"- What they cost is not known: {found.unpriced}."
    if found.counted:
        yield f"- Of {found.counted:,} calls the log tells no tokens; they are approximated from the texts."
    for title, group in (
        ("Begin with", found.candidates[: found.chosen]),
        ("The other groups", found.candidates[found.chosen :]),
    ):
        if group:
            yield from ("", f"## {title}", "")
            yield "| | calls | share | output tokens | answers alike | found | wrong | risk | saves |"
            yield "|---|---:|---:|---:|---:|---:|---:|---|---:|"
            yield from map(_row, group)
    if found.candidates:
        yield ""
        yield (
            "'Found' is the share of a group's prompts that an intent drafted from half of them finds among the others, 'wrong' "
            "what it takes from the rest of the log. Savings are those of the log's time, if a local model answers all that is "
            "found; whether it can is for `pointsman train` and a look at its answers to say."
        )
    for candidate in found.candidates[: found.chosen]:
        yield from ("", f"### {candidate.name}", "")
        yield from (f"- {text[:160]}" for text in candidate.examples)


def _mark(reached: bool, mark: float) -> str:
    return f"{'over' if reached else 'not over'} the mark of {mark:.0%}"


def _row(c: Candidate) -> str:
    alike = "-" if c.alike is None else f"{c.alike:.2f}"
    saving = "-" if c.saving is None else f"{c.saving:,.2f}"
    return (
        f"| {c.name} | {c.calls:,} | {c.share:.1%} | {c.output_tokens:.0f} | {alike} | {c.found:.0%} | {c.wrong:.1%} "
        f"| {c.risk} | {saving} |"
    )
