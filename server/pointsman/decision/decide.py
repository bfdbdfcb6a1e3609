"""Evidence and ruling to a `Decision`: the one place where a route is chosen. Pure."""

from dataclasses import dataclass, replace

from pointsman.decision.sentences import describe_hardness, describe_match
from pointsman.errors import NoRouteError
from pointsman.policy.rules import Ruling
from pointsman.values.catalog import CLOUD, MID, Catalog, Mid
from pointsman.values.decision import Decision, Evidence, Hardness, Reason
from pointsman.values.request import Tier

_TIERS = {CLOUD: Tier.CLOUD, MID: Tier.MID}


@dataclass(frozen=True, slots=True)
class Setup:
    """What the operator configured, as far as routes depend on it.

    cloud_model: None when no cloud is configured
    general_specialist: who answers locally where no intent fits; None when nobody does
    mid: who answers on the middle tier; None when it is not configured
    """

    catalog: Catalog
    version: str
    cloud_model: str | None
    general_specialist: str | None
    general_without_cloud: bool
    general_when_cloud_down: bool
    mid: Mid | None = None


@dataclass(frozen=True, slots=True)
class _Course:
    """Where a prompt is heading: `cloud`, `mid` or a specialist's name, and why."""

    target: str
    reason: Reason
    explanation: str


def decide(ruling: Ruling, evidence: Evidence, setup: Setup) -> Decision:
    """Choose the route: what rules fix, else similarity, else difficulty. `evidence` is empty when ruled.

    Raises:
        NoRouteError: nothing configured may answer; says what to configure.

    """
    course = _ruled(ruling) or _moved_up(_matched(ruling, evidence), ruling, evidence.hardness, setup)
    if course.target in _forbidden(ruling, setup.mid):
        course = _kept_local(course, ruling, setup)
    elif course.target == CLOUD and setup.cloud_model is None:
        course = _without_a_cloud(course, setup)
    return _decision(course, ruling.rule, evidence, setup)


def without_cloud(decision: Decision, setup: Setup, why: str) -> Decision | None:
    """Return the local decision that takes over from a cloud that is down; None when nobody wants one."""
    general = _general(setup)
    if not setup.general_when_cloud_down or general is None:
        return None
    if decision.reason is Reason.EXPLICIT_TIER:  # who names the cloud wants the cloud
        return None
    explanation = f"{decision.explanation} {why}; the general specialist answers instead."
    course = _Course(general, Reason.CLOUD_DOWN, explanation)
    return _decision(course, decision.rule, decision.evidence, setup)


def _ruled(ruling: Ruling) -> _Course | None:
    """Return where rules send a prompt without a look at it."""
    if ruling.needs_similarity:
        return None
    assert ruling.reason is not None  # noqa: S101 - what fixes a target says why
    return _Course(ruling.specialist or str(ruling.tier), ruling.reason, ruling.explanation)


def _matched(ruling: Ruling, evidence: Evidence) -> _Course:
    """Return where similarity sends a prompt: to its intent's target if near and sure enough, else the cloud."""
    explanation = f"{ruling.explanation} {describe_match(evidence)}".strip()
    if not evidence.accepted or evidence.target is None:
        reason = Reason.LOW_CONFIDENCE if evidence.near else Reason.LOW_SIMILARITY
        return _Course(CLOUD, reason, explanation)
    reason = Reason.FOLLOW_UP if evidence.follow_up else Reason.INTENT_MATCH
    return _Course(evidence.target, ruling.reason or reason, explanation)


def _moved_up(course: _Course, ruling: Ruling, hardness: Hardness | None, setup: Setup) -> _Course:
    """Move a prompt that is too hard for its specialist up a tier, where there is one that it may go to."""
    if course.target in _TIERS or hardness is None or hardness.local:
        return course
    forbidden = _forbidden(ruling, setup.mid)
    above = [
        target
        for target in (MID, CLOUD)
        if target not in forbidden and _model(target, setup) and _specialist(target, setup) != course.target
    ]
    explanation = f"{course.explanation} {describe_hardness(hardness)}"
    if not above:
        explanation += " Nothing above the local tier may answer, so it stays."
        return replace(course, explanation=explanation)
    who = "mid tier" if above[0] == MID else "cloud"
    return _Course(above[0], Reason.DIFFICULTY, f"{explanation} So the {who} answers.")


def _forbidden(ruling: Ruling, mid: Mid | None) -> frozenset[str]:
    """Return the targets that a request that stays local may not reach; a specialist on the mid tier is local."""
    if not ruling.stays_local:
        return frozenset()
    if ruling.tier is not Tier.LOCAL and (mid is None or mid.specialist is not None):
        return frozenset({CLOUD})
    return frozenset({CLOUD, MID})


def _kept_local(course: _Course, ruling: Ruling, setup: Setup) -> _Course:
    why = f"{course.explanation} The answer must stay local"
    general = _general(setup)
    if general is None:
        raise NoRouteError(
            f"{why}, and no general specialist is configured; "
            "set routing.general_specialist to the name of a registered one"
        )
    reason = Reason.RULE if ruling.rule else Reason.LOCAL_ONLY
    if ruling.by_policy:
        reason = Reason.POLICY
    return _Course(general, reason, f"{why}, so the general specialist answers.")


def _without_a_cloud(course: _Course, setup: Setup) -> _Course:
    if course.reason is Reason.EXPLICIT_TIER:
        raise NoRouteError("the request names the cloud, but none is configured; set cloud.model")
    missing = f"{course.explanation} This is one for the cloud, but no cloud is configured"
    if not setup.general_without_cloud:
        raise NoRouteError(f"{missing}; set cloud.model, or routing.on_no_cloud to 'general'")
    general = _general(setup)
    if general is None:
        raise NoRouteError(
            f"{missing}, and no general specialist is registered; set cloud.model, "
            "or routing.general_specialist to the name of a registered one"
        )
    return _Course(general, Reason.NO_CLOUD, f"{missing}, so the general specialist answers.")


def _general(setup: Setup) -> str | None:
    name = setup.general_specialist
    return name if name is not None and setup.catalog.specialist(name) is not None else None


def _specialist(target: str, setup: Setup) -> str | None:
    """Return the name of the specialist that a target means; None for a model of the cloud's endpoint."""
    if target == MID:
        return setup.mid.specialist if setup.mid else None
    return None if target == CLOUD else target


def _model(target: str, setup: Setup) -> str | None:
    """Return the name of the model that answers a target; None where nobody does."""
    if target == CLOUD:
        return setup.cloud_model
    if target == MID and setup.mid is not None and setup.mid.model is not None:
        return setup.mid.model
    specialist = setup.catalog.specialist(_specialist(target, setup) or "")
    return specialist.base.uri.rsplit("/", 1)[-1] if specialist else None


def _decision(course: _Course, rule: str, evidence: Evidence, setup: Setup) -> Decision:
    specialist, model = _specialist(course.target, setup), _model(course.target, setup)
    if model is None:  # the catalog has every specialist that is a target; the mid tier is a setting
        missing = f"specialist {specialist!r} is not registered" if specialist else "set routing.mid"
        raise NoRouteError(f"{course.explanation} Nobody answers on the mid tier (routing.mid): {missing}")
    tier = _TIERS.get(course.target, Tier.LOCAL)
    return Decision(tier, specialist, course.reason, course.explanation, evidence, setup.version, model, rule)
