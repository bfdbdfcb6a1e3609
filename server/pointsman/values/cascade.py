"""What is known of how sure a local answer is, as values."""

from dataclasses import dataclass
from datetime import datetime

from pointsman.values.catalog import NEXT, Catalog

STALE = "stale: fitted on answers of another base, adapter or prompt; run `pointsman cascade fit` again"


@dataclass(frozen=True, slots=True)
class Signals:
    """Of one answer, or of its beginning. Log-probabilities are natural; 0 where the engine told none.

    lowest, lowest_three: the least of them, and the mean of the three least
    mean, total: over all tokens
    tokens: how many were told
    repeated: share of four-word sequences that came before, in [0, 1]
    cut: the token limit ended it; refusal: it declines; invalid: it breaks its format
    repaired: the first one broke its format, and this one was held to it
    strange: its words that the conversation does not hold, in lower case
    unnamed, unsaid, untold: words of the prompt that it leaves out: names, those that two lines hold, and those of
        its last line
    altered: what it quotes and the conversation does not hold to the letter
    borrowed: its words outside of quotes that the prompt's last line holds, and the lines before it do not
    twice: its words outside of quotes that it says more than once
    """

    lowest: float = 0.0
    lowest_three: float = 0.0
    mean: float = 0.0
    total: float = 0.0
    tokens: int = 0
    repeated: float = 0.0
    cut: bool = False
    refusal: bool = False
    invalid: bool = False
    repaired: bool = False
    strange: frozenset[str] = frozenset()
    unnamed: frozenset[str] = frozenset()
    unsaid: frozenset[str] = frozenset()
    untold: frozenset[str] = frozenset()
    altered: frozenset[str] = frozenset()
    borrowed: frozenset[str] = frozenset()
    twice: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AnswerCurve:
    """Probability that an answer is right: σ(intercept + Σ weight · (feature − centre) / scale).

    features: names, in the order of the other three; see `decision.answer_model.FEATURES`
    words: of right answers that their prompts did not hold: the specialist's own, and nothing strange
    passed_over: of prompts, which their right answers left out: nothing that has to be said
    """

    features: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    words: frozenset[str] = frozenset()
    passed_over: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AnswerModel:
    """How sure the answers of one specialist are, and from which confidence they stand.

    answers_hash: `Specialist.answers_hash` that it was fitted on; with any other it is stale
    shared: whether the curve is that of all specialists, for want of labels of its own
    fitting, calibration: labelled answers that the curve and the threshold come from
    right: of both
    required_confidence: from which an answer stands; 1 when the labels support no promise
    wrong: answers that stand at that confidence and are not right; bound: Clopper-Pearson upper bound of
        their share of all answers; kept: share of answers that stand
    labels_missing: how many labels more would support a promise; None when more would not help
    auroc: of the confidence for 'the answer is right', on the calibration answers; None with one kind only
    """

    specialist: str
    answers_hash: str
    curve: AnswerCurve
    shared: bool
    fitting: int
    calibration: int
    right: int
    required_confidence: float
    wrong: int
    bound: float
    kept: float
    labels_missing: int | None
    auroc: float | None

    @property
    def holds(self) -> bool:
        """Whether the labels supported the promise."""
        return self.required_confidence < 1


@dataclass(frozen=True, slots=True)
class Cascade:
    """With this `confidence`, at most `risk` of a specialist's answers stand and are wrong."""

    made_at: datetime
    risk: float
    confidence: float
    models: tuple[AnswerModel, ...]

    def model(self, specialist: str, answers_hash: str) -> AnswerModel | None:
        """Return the model of a specialist; None where there is none, or it is stale.

        One that was fitted for a candidate is that of the specialist once the candidate is the live version.
        """
        names = {specialist, f"{specialist}{NEXT}"}
        return next(
            (m for m in self.models if m.specialist in names and m.answers_hash == answers_hash), None
        )

    def stale(self, catalog: Catalog) -> tuple[AnswerModel, ...]:
        """Return the models of specialists that answer otherwise by now; they are not used."""
        known = {specialist.name: specialist.answers_hash for specialist in catalog.specialists}
        return tuple(
            model
            for model in self.models
            if model.specialist in known and self.model(model.specialist, known[model.specialist]) is None
        )

    def named(self, specialist: str) -> AnswerModel | None:
        """Return the model of that name, stale or not."""
        return next((model for model in self.models if model.specialist == specialist), None)
