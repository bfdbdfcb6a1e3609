"""Evidence and ruling to a `Decision`: the one place where a route is chosen. Pure."""

from dataclasses import dataclass

from pointsman.errors import NoRouteError
from pointsman.policy.rules import Ruling
from pointsman.values.catalog import CLOUD, Catalog
from pointsman.values.decision import Decision, Evidence, Reason
from pointsman.values.request import Tier


@dataclass(frozen=True, slots=True)
class Setup:
    """What the operator configured, as far as routes depend on it.

    cloud_model: None when no cloud is configured
    general_specialist: who answers locally where no intent fits; None when nobody does
    """

    catalog: Catalog
    version: str
    cloud_model: str | None
    general_specialist: str | None
    general_without_cloud: bool
    general_when_cloud_down: bool


def decide(ruling: Ruling, evidence: Evidence, setup: Setup) -> Decision:
    """Choose the route. `evidence` is empty when the ruling needs none.

    Raises:
        NoRouteError: nothing configured may answer; says what to configure.

    """
    if ruling.specialist is not None:
        return _local(ruling.specialist, ruling.reason, ruling.explanation, evidence, setup)
    if ruling.tier is Tier.CLOUD:
        if setup.cloud_model is None and ruling.reason is Reason.EXPLICIT_TIER:
            raise NoRouteError("the request names the cloud, but none is configured; set cloud.model")
        return _cloud(ruling.reason, ruling.explanation, evidence, setup)
    target = evidence.target if evidence.accepted else None
    explanation = _describe(evidence)
    if target is not None and target != CLOUD:
        if ruling.tier is Tier.LOCAL:
            explanation = f"{ruling.explanation} {explanation}"
        return _local(target, ruling.reason or Reason.INTENT_MATCH, explanation, evidence, setup)
    if ruling.stays_local:
        why = f"{explanation} The request must stay local, so the general specialist answers."
        return _general(
            Reason.LOCAL_ONLY,
            why,
            evidence,
            setup,
            otherwise=f"{explanation} The request must stay local, and no general specialist is configured; "
            "set routing.general_specialist to the name of a registered one",
        )
    reason = Reason.INTENT_MATCH if evidence.accepted else Reason.LOW_SIMILARITY
    return _cloud(reason, explanation, evidence, setup)


def without_cloud(decision: Decision, setup: Setup, why: str) -> Decision | None:
    """Return the local decision that takes over from a cloud that is down; None when nobody wants one."""
    if not setup.general_when_cloud_down or _general_name(setup) is None:
        return None
    if decision.reason is Reason.EXPLICIT_TIER:  # who names the cloud wants the cloud
        return None
    explanation = f"{decision.explanation} {why}; the general specialist answers instead."
    return _general(Reason.CLOUD_DOWN, explanation, decision.evidence, setup, otherwise="")


def _describe(evidence: Evidence) -> str:
    if evidence.intent is None:
        return "The catalog has no intents."
    comparison = "reaches" if evidence.accepted else "is below"
    return (
        f"The nearest intent is {evidence.intent!r}: its score {evidence.score:.3f} {comparison} "
        f"the threshold {evidence.threshold:.3f}."
    )


def _cloud(reason: Reason | None, explanation: str, evidence: Evidence, setup: Setup) -> Decision:
    if setup.cloud_model is not None:
        assert reason is not None  # noqa: S101 - every path to the cloud has one
        return Decision(Tier.CLOUD, None, reason, explanation, evidence, setup.version, setup.cloud_model)
    missing = f"{explanation} This is one for the cloud, but no cloud is configured"
    if not setup.general_without_cloud:
        raise NoRouteError(f"{missing}; set cloud.model, or routing.on_no_cloud to 'general'")
    return _general(
        Reason.NO_CLOUD,
        f"{missing}, so the general specialist answers.",
        evidence,
        setup,
        otherwise=f"{missing}, and no general specialist is registered; set cloud.model, "
        "or routing.general_specialist to the name of a registered one",
    )


def _general(
    reason: Reason, explanation: str, evidence: Evidence, setup: Setup, *, otherwise: str
) -> Decision:
    name = _general_name(setup)
    if name is None:
        raise NoRouteError(otherwise)
    return _local(name, reason, explanation, evidence, setup)


def _general_name(setup: Setup) -> str | None:
    name = setup.general_specialist
    return name if name is not None and setup.catalog.specialist(name) is not None else None


def _local(name: str, reason: Reason | None, explanation: str, evidence: Evidence, setup: Setup) -> Decision:
    specialist = setup.catalog.specialist(name)
    assert specialist is not None and reason is not None  # noqa: S101, PT018 - the catalog and rules saw to it
    model = specialist.base.uri.rsplit("/", 1)[-1]
    return Decision(Tier.LOCAL, name, reason, explanation, evidence, setup.version, model)
