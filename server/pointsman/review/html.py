"""An `Evaluation` to one HTML page that needs nothing else. Needs jinja2 and matplotlib (extra `review`)."""

from typing import Any

from pointsman.review.evaluate import Evaluation
from pointsman.review.metrics import IntentFigures
from pointsman.review.numbers import cut, interval, percent
from pointsman.review.plots import draw_margins, draw_reliability, draw_risk_coverage

_TEMPLATE = "evaluation.html.jinja"
_MOST_PAIRS = 100


def page(evaluation: Evaluation, *, data: str, encoder: str) -> str:
    """Return the page; `data` and `encoder` say what was measured. Equal evaluations make equal pages."""
    inside = [item.margin for item in evaluation.judged if item.expected is not None]
    outside = [item.margin for item in evaluation.judged if item.expected is None]
    return render(
        _TEMPLATE,
        e=evaluation,
        data=data,
        encoder=encoder,
        pairs=evaluation.confusions[:_MOST_PAIRS],
        intents=sorted(evaluation.per_intent, key=_worst_first),
        risk_coverage=draw_risk_coverage(evaluation.risk_coverage, _served(evaluation)),
        reliability=draw_reliability(evaluation.reliability),
        margins=draw_margins(inside, outside),
        none="(out of scope)",
        refused="(refused)",
    )


def render(template: str, **values: Any) -> str:
    """Return one of the templates, filled; values are escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pointsman.review"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "cut": cut}
    return environment.get_template(template).render(**values)


def _worst_first(figures: IntentFigures) -> tuple[bool, float]:
    return figures.f1 is None, figures.f1 or 0.0


def _served(evaluation: Evaluation) -> tuple[float, float] | None:
    """Return coverage and risk as served; None where nothing is accepted."""
    accepted = [item for item in evaluation.judged if item.accepted]
    if not accepted:
        return None
    wrong = sum(item.best != item.expected for item in accepted)
    return len(accepted) / len(evaluation.judged), wrong / len(accepted)
