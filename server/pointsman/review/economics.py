"""Volumes, prices and local running costs to what a month costs, with and without local models. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from pointsman.errors import ConfigError
from pointsman.values.price import LocalCosts, ModelPrice

_SWING = 0.2
_ROUNDING = 1e-9
_WORTH = 0.1
"""A saving under this part of the bill is within what the guesses are worth."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is assumed. Prices are per million tokens, in one currency; shares are of 1.

    input_tokens, output_tokens: of a request; cached_share: of the input tokens, at the cached price
    local_share: of requests that the local model is asked; escalated_share: of those, asked of the cloud as well
    mid_share: of requests that another model of the cloud answers, at its own prices; its cached input is as fresh
    fixed: local cost a month whatever is asked: machines, people; watts, kwh_price: power on top
    cloud_success, local_success, mid_success: share of tasks that come out right; of escalated ones it is the cloud's
    """

    requests: float
    input_tokens: float
    output_tokens: float
    input_price: float
    output_price: float
    cached_price: float | None = None
    cached_share: float = 0.0
    local_share: float = 0.8
    escalated_share: float = 0.0
    fixed: float = 0.0
    watts: float = 0.0
    kwh_price: float = 0.0
    cloud_success: float = 1.0
    local_success: float = 1.0
    mid_share: float = 0.0
    mid_input_price: float = 0.0
    mid_output_price: float = 0.0
    mid_success: float = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            limit = 1.0 if item.name.endswith(("share", "success")) else float("inf")
            if not 0 <= value <= limit or value == float("inf"):
                span = "from 0 to 1" if limit == 1 else "0 or more, and finite"
                raise ConfigError(f"{item.name}: must be {span} (got {value})")
        if self.local_share + self.mid_share > 1 + _ROUNDING:
            raise ConfigError(
                f"mid_share: must leave room for local_share, which is {self.local_share} (got {self.mid_share})"
            )


@dataclass(frozen=True, slots=True)
class Bill:
    """What a month of a case comes to. `break_even` is in requests a month; None where more of them never pay."""

    requests: float
    all_cloud: float
    hybrid: float
    local: float
    success: float
    per_success: float | None
    per_success_all_cloud: float | None
    break_even: float | None

    @property
    def per_request(self) -> float | None:
        """Blended over all tiers."""
        return self.hybrid / self.requests if self.requests else None

    @property
    def saved(self) -> float:
        """Share of the all-cloud bill; negative where local models cost more than they save."""
        return 1 - self.hybrid / self.all_cloud if self.all_cloud else 0.0


def price_of_request(case: Case) -> float:
    """Return what the cloud charges for one request."""
    cached_price = case.input_price if case.cached_price is None else case.cached_price
    charged = ModelPrice(case.input_price, cached_price, case.output_price)
    return charged.amount(case.input_tokens, case.input_tokens * case.cached_share, case.output_tokens)


def bill(case: Case) -> Bill:
    """Return what a month costs with the cloud alone, and with local models before it."""
    each = price_of_request(case)
    kept = case.local_share * (1 - case.escalated_share)  # that no model of the cloud sees
    mid = ModelPrice(case.mid_input_price, case.mid_input_price, case.mid_output_price)
    mid_each = mid.amount(case.input_tokens, 0.0, case.output_tokens)
    dear = 1 - kept - case.mid_share
    local = LocalCosts(case.fixed, case.watts, case.kwh_price).monthly
    all_cloud = case.requests * each
    hybrid = case.requests * (dear * each + case.mid_share * mid_each) + local
    success = kept * case.local_success + case.mid_share * case.mid_success + dear * case.cloud_success
    saved_each = kept * each + case.mid_share * (each - mid_each)
    return Bill(
        case.requests,
        all_cloud,
        hybrid,
        local,
        success,
        hybrid / (case.requests * success) if case.requests * success else None,
        all_cloud / (case.requests * case.cloud_success) if case.requests * case.cloud_success else None,
        local / saved_each if saved_each > 0 else None,
    )


@dataclass(frozen=True, slots=True)
class Swing:
    """What an input does that is a fifth less, and a fifth more (shares as far as they go): share saved, cost per success."""

    input: str
    less: float
    more: float
    per_success_less: float | None
    per_success_more: float | None
    dearer: bool


def sensitivity(case: Case) -> Iterator[Swing]:
    """Yield what each input does that moves the share saved, or what a task costs that comes out right.

    `dearer`: whether such a task is then dearer than with the cloud alone, on one of both sides.
    """
    beside = {"local_share": case.mid_share, "mid_share": case.local_share}
    for item in fields(case):
        value = getattr(case, item.name)
        if not value:
            continue
        share = item.name.endswith(("share", "success"))
        most = 1.0 - beside.get(item.name, 0.0) if share else float("inf")
        less, more = (
            bill(replace(case, **{item.name: min(most, value * factor)}))
            for factor in (1 - _SWING, 1 + _SWING)
        )
        swing = Swing(
            item.name,
            less.saved,
            more.saved,
            less.per_success,
            more.per_success,
            _worse_per_success(less) or _worse_per_success(more),
        )
        if _moves(less.saved, more.saved) or _moves(less.per_success, more.per_success):
            yield swing


def _moves(less: float | None, more: float | None) -> bool:
    if less is None or more is None:
        return less is not more
    return abs(less - more) > _ROUNDING * max(1.0, abs(less))


def verdict(case: Case) -> str:
    """Return what to do, in a sentence; where local models do not pay, not to do it, and why."""
    found = bill(case)
    if not found.all_cloud:
        return "Do not do this: the cloud costs nothing here."
    if found.break_even is None:
        return "Do not do this: no request stays with the local model, or is cheaper on the mid tier."
    if found.saved <= 0:
        return (
            f"Do not do this: the local models cost {found.local:,.2f} a month and save "
            f"{found.all_cloud + found.local - found.hybrid:,.2f}; it takes {found.break_even:,.0f} requests a month to break even."
        )
    if _worse_per_success(found):
        return "Do not do this: it is cheaper a month, and dearer for each task that comes out right."
    if found.saved < _WORTH:
        return f"Do not do this for the money: {found.saved:.1%} is within what these guesses are worth."
    swings = list(sensitivity(case))
    losing = [one.input for one in swings if min(one.less, one.more) <= 0]
    dearer = [one.input for one in swings if one.dearer and one.input not in losing]
    caution = ""
    if losing:
        caution = f" One input a fifth off turns it into a loss: {_names(losing)}."
    if dearer:
        caution += f" With one a fifth off, a task that comes out right is dearer than on the cloud: {_names(dearer)}."
    return f"It saves {found.saved:.1%}, from {found.break_even:,.0f} requests a month on.{caution}"


def _names(inputs: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in inputs)


def _worse_per_success(found: Bill) -> bool:
    with_local, without = found.per_success, found.per_success_all_cloud
    return with_local is None or (without is not None and with_local > without)
