"""The decisions that take over from a local one within an answer. Pure."""

from dataclasses import replace

from pointsman.decision.decide import Setup
from pointsman.policy.rules import Ruling
from pointsman.values.decision import Decision, Reason
from pointsman.values.request import Request, Tier


def may_escalate(request: Request, ruling: Ruling, setup: Setup) -> bool:
    """Whether the cloud may answer in the place of a specialist.

    Not where the request or a rule keeps it local, nor where it names the specialist that must answer.
    """
    return setup.cloud_model is not None and not ruling.stays_local and request.constraints.specialist is None


def escalated(decision: Decision, setup: Setup, why: str) -> Decision:
    """Return the cloud's decision that takes over; `why` is half a sentence on the local answer."""
    assert setup.cloud_model is not None  # noqa: S101 - see `may_escalate`
    explanation = f"{decision.explanation} {why}, so the cloud answers instead."
    return replace(
        decision,
        tier=Tier.CLOUD,
        specialist=None,
        reason=Reason.ESCALATED,
        explanation=explanation,
        model=setup.cloud_model,
    )


def repaired(decision: Decision, why: str) -> Decision:
    """Return the same decision for an answer that is made anew, held to its format."""
    explanation = f"{decision.explanation} {why}, so the answer was made anew, held to its format."
    return replace(decision, reason=Reason.REPAIRED, explanation=explanation)


def draft_stands(decision: Decision, why: str) -> Decision:
    """Return the local decision that takes back over from a cloud that failed."""
    explanation = f"{decision.explanation} {why}, so the local answer stands, with low confidence."
    return replace(decision, reason=Reason.DRAFT_STANDS, explanation=explanation)
