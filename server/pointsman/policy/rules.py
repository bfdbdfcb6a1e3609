"""What a request and the operator's rules fix, before anything is looked at: a request to a ruling."""

from dataclasses import dataclass, replace

from pointsman.errors import InvalidRequestError, PolicyError, UnknownNameError
from pointsman.policy.conditions import describe, facts_of, holds
from pointsman.values.catalog import CLOUD, LOCAL, MID, Catalog, Mid, Rule
from pointsman.values.decision import Reason
from pointsman.values.policy import Action
from pointsman.values.request import Constraints, Request, Tier

_NAMED = {Tier.CLOUD: "the cloud", Tier.MID: "the mid tier"}
"""The tiers that a request may name to fix who answers; the local tier leaves a choice."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What rules leave open.

    specialist: the one that must answer, or None
    tier: the tier that must answer, or None
    stays_local: whether the conversation may never reach the cloud
    reason: which kind of rule fixed specialist or tier; None when similarity decides
    explanation: sentences on what was fixed and what was skipped
    rule: name of the rule of the rules file that fixed it; empty when none did
    by_policy: whether the policy is what keeps it local
    """

    specialist: str | None = None
    tier: Tier | None = None
    stays_local: bool = False
    reason: Reason | None = None
    explanation: str = ""
    rule: str = ""
    by_policy: bool = False

    @property
    def needs_similarity(self) -> bool:
        """Whether the prompt must be embedded to decide."""
        return self.specialist is None and self.tier not in {Tier.CLOUD, Tier.MID}


def rule(
    request: Request, catalog: Catalog, cloud_task_types: tuple[str, ...] = (), mid: Mid | None = None
) -> Ruling:
    """Apply the rules in order: contradictions, specialist, tier, the rules file, task type.

    Raises:
        InvalidRequestError: two constraints contradict each other, or the task type is unknown.
        PolicyError: a constraint asks for the cloud, and the policy keeps the conversation local.
        UnknownNameError: no such specialist.

    """
    screening = request.screening
    if screening.action is Action.STAY_LOCAL:
        policy = f"The policy keeps it local: it holds {screening.describe(Action.STAY_LOCAL)}."
        try:
            ruling = _ruling(request, catalog, cloud_task_types, mid)
        except InvalidRequestError as error:
            if _asks_for_the_cloud(request.constraints, cloud_task_types):
                raise PolicyError(f"{policy} {error}", screening) from None
            raise
        return replace(ruling, explanation=f"{policy} {ruling.explanation}".strip(), by_policy=True)
    ruling = _ruling(request, catalog, cloud_task_types, mid)
    if screening.action is Action.REDACT:
        policy = f"What leaves for the cloud is redacted: {screening.describe(Action.REDACT)}."
        return replace(ruling, explanation=f"{policy} {ruling.explanation}".strip())
    return ruling


def _asks_for_the_cloud(c: Constraints, cloud_task_types: tuple[str, ...]) -> bool:
    return c.tier in _NAMED or c.task_type in cloud_task_types


def _ruling(request: Request, catalog: Catalog, cloud_task_types: tuple[str, ...], mid: Mid | None) -> Ruling:
    c = request.constraints
    _refuse_contradictions(c, mid)
    if c.specialist:
        if catalog.specialist(c.specialist) is None:
            raise UnknownNameError("specialist", c.specialist, [s.name for s in catalog.specialists])
        explanation = f"The request names specialist {c.specialist!r}."
        return Ruling(c.specialist, Tier.LOCAL, _stays_local(c), Reason.EXPLICIT_SPECIALIST, explanation)
    if c.task_type:
        _refuse_unknown_task_type(c.task_type, catalog, cloud_task_types)
    if c.tier in _NAMED:
        explanation = f"The request names {_NAMED[c.tier]}."
        return Ruling(None, c.tier, c.local_only, Reason.EXPLICIT_TIER, explanation)
    skipped, ruling = _by_rules_file(request, catalog.rules, mid)
    ruling = ruling or _by_task_type(c, catalog, cloud_task_types) or _by_locality(c)
    return replace(ruling, explanation=f"{skipped} {ruling.explanation}".strip()) if skipped else ruling


def _refuse_contradictions(c: Constraints, mid: Mid | None) -> None:
    if c.tier is Tier.CLOUD and c.local_only:
        raise InvalidRequestError("constraints.tier", "tier cloud contradicts local_only")
    if c.tier is Tier.MID and c.local_only and mid is not None and mid.model is not None:
        message = f"tier mid contradicts local_only: the cloud's {mid.model!r} answers it (routing.mid)"
        raise InvalidRequestError("constraints.tier", message)
    if c.specialist and c.tier in _NAMED:
        message = f"tier {c.tier} contradicts specialist {c.specialist!r}"
        raise InvalidRequestError("constraints.tier", message)


def _refuse_unknown_task_type(task_type: str, catalog: Catalog, cloud_task_types: tuple[str, ...]) -> None:
    by_specialists = {t for s in catalog.specialists for t in s.task_types}
    known = by_specialists | {t for r in catalog.rules for t in r.task_types} | set(cloud_task_types)
    if task_type not in known:
        message = f"unknown task type {task_type!r}; known: {', '.join(sorted(known))}"
        raise InvalidRequestError("constraints.task_type", message)


def _stays_local(c: Constraints) -> bool:
    return c.local_only or c.tier is Tier.LOCAL


def _by_rules_file(request: Request, rules: tuple[Rule, ...], mid: Mid | None) -> tuple[str, Ruling | None]:
    """Return what was vetoed on the way, in words, and what the first rule that holds and may do so fixes."""
    if not rules:
        return "", None
    c = request.constraints
    facts = facts_of(request)
    skipped = ""
    for candidate in (r for r in rules if holds(r, facts)):
        if not _vetoes(c, candidate, mid):
            tier = Tier.LOCAL if candidate.specialist else Tier(candidate.to)
            stays_local = _stays_local(c) or candidate.to == LOCAL
            return skipped.strip(), Ruling(
                specialist=candidate.specialist,
                tier=tier,
                stays_local=stays_local,
                reason=Reason.RULE,
                explanation=describe(candidate, facts),
                rule=candidate.name,
            )
        skipped += f" Rule {candidate.name!r} is skipped: the request forbids {_NAMED[Tier(candidate.to)]}."
    return skipped.strip(), None


def _vetoes(c: Constraints, candidate: Rule, mid: Mid | None) -> bool:
    """Whether the request forbids where a rule leads. A mid tier that is a specialist stays on this machine."""
    if candidate.to == CLOUD:
        return _stays_local(c)
    if candidate.to == MID:
        return c.tier is Tier.LOCAL or (c.local_only and mid is not None and mid.model is not None)
    return False


def _by_task_type(c: Constraints, catalog: Catalog, cloud_task_types: tuple[str, ...]) -> Ruling | None:
    if not c.task_type:
        return None
    explanation = f"The request names task type {c.task_type!r}."
    owner = next((s.name for s in catalog.specialists if c.task_type in s.task_types), None)
    if owner is not None:
        return Ruling(owner, Tier.LOCAL, _stays_local(c), Reason.TASK_TYPE, explanation)
    if c.task_type not in cloud_task_types:
        return None
    if _stays_local(c):
        message = f"task type {c.task_type!r} is one for the cloud, which the request forbids"
        raise InvalidRequestError("constraints.task_type", message)
    return Ruling(None, Tier.CLOUD, False, Reason.TASK_TYPE, explanation)


def _by_locality(c: Constraints) -> Ruling:
    unclaimed = f"No rule takes task type {c.task_type!r} here." if c.task_type else ""
    if c.tier is Tier.LOCAL:
        explanation = f"{unclaimed} The request names the local tier.".strip()
        return Ruling(None, Tier.LOCAL, True, Reason.EXPLICIT_TIER, explanation)
    return Ruling(stays_local=c.local_only, explanation=unclaimed)
