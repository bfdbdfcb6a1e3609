"""A request to the facts that rules ask for, and a rule's verdict on them. Knows no vectors and no models."""

from dataclasses import dataclass

from pointsman.values.catalog import Rule
from pointsman.values.request import Request


@dataclass(frozen=True, slots=True)
class Facts:
    """What conditions are about. A number is None, and a name empty, where the request does not tell."""

    task_type: str
    caller: str
    tokens: int
    output_tokens: int | None
    budget_ms: float | None


def facts_of(request: Request) -> Facts:
    """Return the facts of a request."""
    return Facts(
        task_type=request.constraints.task_type or "",
        caller=request.caller,
        tokens=request.tokens,
        output_tokens=request.constraints.output_tokens or None,
        budget_ms=None if request.budget_s is None else request.budget_s * 1e3,
    )


def holds(rule: Rule, facts: Facts) -> bool:
    """Whether all conditions of a rule hold. One about something that the request does not tell holds never."""
    named = ((rule.task_types, facts.task_type), (rule.callers, facts.caller))
    counted = (
        (rule.tokens, facts.tokens),
        (rule.output_tokens, facts.output_tokens),
        (rule.budget_ms, facts.budget_ms),
    )
    return all(not names or name in names for names, name in named) and all(
        bounds is None or (number is not None and bounds.hold(number)) for bounds, number in counted
    )


def describe(rule: Rule, facts: Facts) -> str:
    """Return a sentence that names a rule that holds, and the facts that it asked for."""
    asked = {
        f"task type {facts.task_type!r}": rule.task_types,
        f"caller {facts.caller!r}": rule.callers,
        f"about {facts.tokens} tokens": rule.tokens,
        f"{facts.output_tokens} output tokens": rule.output_tokens,
        f"{facts.budget_ms or 0:.0f} ms left": rule.budget_ms,
    }
    said = [text for text, condition in asked.items() if condition]
    return f"Rule {rule.name!r} holds ({', '.join(said) or 'it always does'})."
