"""Evidence to sentences that people read. Decides nothing."""

from pointsman.values.decision import Evidence, Hardness


def describe_match(evidence: Evidence) -> str:
    """Return what similarity found, with every number that it was judged by."""
    return " ".join(filter(None, (_describe_score(evidence), evidence.turn, evidence.reading)))


def _describe_score(evidence: Evidence) -> str:
    if evidence.intent is None:
        return "The catalog has no intents."
    begin = (
        f"The turn follows up on the one before it, with intent {evidence.intent!r}"
        if evidence.follow_up
        else f"The nearest intent is {evidence.intent!r}"
    )
    comparison = "reaches" if evidence.near else "is below"
    match = f"{begin}: its score {evidence.score:.3f} {comparison} the threshold {evidence.threshold:.3f}"
    if not evidence.near or evidence.required_confidence <= 0:
        return f"{match}."
    comparison = "and confidence {:.3f} reaches" if evidence.accepted else "but confidence {:.3f} is below"
    sure = comparison.format(evidence.confidence)
    return f"{match}, {sure} the required {evidence.required_confidence:.3f}."


def describe_hardness(hardness: Hardness) -> str:
    """Return why a prompt is too hard for the local model."""
    if hardness.threshold is None:
        return f"No difficulty threshold is known for it (score {hardness.score:.3f}), so it counts as hard."
    return (
        f"It looks hard for the local model: its difficulty {hardness.score:.3f} "
        f"is above the threshold {hardness.threshold:.3f}."
    )
