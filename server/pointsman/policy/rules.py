"""Constraints of a request to a ruling: they come first and override similarity."""

from dataclasses import dataclass

from pointsman.errors import InvalidRequestError, UnknownNameError
from pointsman.values.catalog import Catalog
from pointsman.values.decision import Reason
from pointsman.values.request import Constraints, Tier


@dataclass(frozen=True, slots=True)
class Ruling:
    """What rules leave open.

    specialist: the one that must answer, or None
    tier: the tier that must answer, or None
    stays_local: whether the conversation may never reach the cloud
    reason, explanation: which rule fixed specialist or tier; None when similarity decides
    """

    specialist: str | None = None
    tier: Tier | None = None
    stays_local: bool = False
    reason: Reason | None = None
    explanation: str = ""

    @property
    def needs_similarity(self) -> bool:
        """Whether the prompt must be embedded to decide."""
        return self.specialist is None and self.tier is not Tier.CLOUD


def rule(constraints: Constraints, catalog: Catalog, cloud_task_types: tuple[str, ...]) -> Ruling:
    """Apply the rules in order: contradictions, specialist, task type, tier.

    Raises:
        InvalidRequestError: two rules contradict each other, or the task type is unknown.
        UnknownNameError: no such specialist.

    """
    c = constraints
    local = c.local_only or c.tier is Tier.LOCAL
    if c.local_only and c.tier is Tier.CLOUD:
        raise InvalidRequestError("constraints.tier", "tier cloud contradicts local_only")
    if c.specialist and c.tier is Tier.CLOUD:
        message = f"tier cloud contradicts specialist {c.specialist!r}"
        raise InvalidRequestError("constraints.tier", message)
    if c.specialist:
        if catalog.specialist(c.specialist) is None:
            raise UnknownNameError("specialist", c.specialist, [s.name for s in catalog.specialists])
        return Ruling(
            c.specialist,
            Tier.LOCAL,
            local,
            Reason.EXPLICIT_SPECIALIST,
            f"The request names specialist {c.specialist!r}.",
        )
    if c.task_type:
        return _rule_task_type(c.task_type, c.tier, local, catalog, cloud_task_types)
    if c.tier is Tier.CLOUD:
        return Ruling(None, Tier.CLOUD, False, Reason.EXPLICIT_TIER, "The request names the cloud.")
    if c.tier is Tier.LOCAL:
        return Ruling(None, Tier.LOCAL, True, Reason.EXPLICIT_TIER, "The request names the local tier.")
    return Ruling(stays_local=local)


def _rule_task_type(
    task_type: str, tier: Tier | None, local: bool, catalog: Catalog, cloud_task_types: tuple[str, ...]
) -> Ruling:
    explanation = f"The request names task type {task_type!r}."
    owner = next((s.name for s in catalog.specialists if task_type in s.task_types), None)
    if owner is not None and tier is not Tier.CLOUD:
        return Ruling(owner, Tier.LOCAL, local, Reason.TASK_TYPE, explanation)
    if owner is None and task_type not in cloud_task_types:
        known = sorted({t for s in catalog.specialists for t in s.task_types} | set(cloud_task_types))
        raise InvalidRequestError(
            "constraints.task_type", f"unknown task type {task_type!r}; known: {', '.join(known)}"
        )
    if local:
        message = f"task type {task_type!r} is one for the cloud, which the request forbids"
        raise InvalidRequestError("constraints.task_type", message)
    reason = Reason.TASK_TYPE if tier is None else Reason.EXPLICIT_TIER
    return Ruling(None, Tier.CLOUD, False, reason, explanation)
