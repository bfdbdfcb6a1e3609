"""A local answer, as it comes, to whether it may stand."""

from dataclasses import dataclass

from pointsman.catalog.output_format import format_of
from pointsman.decision.answer_model import confidence_of
from pointsman.decision.signals import SignalReader, loop_start, refuses
from pointsman.sections import Cascade as CascadeSettings
from pointsman.values.cascade import AnswerModel
from pointsman.values.catalog import Output
from pointsman.values.events import Shortfall
from pointsman.values.request import Request

_REFUSAL_CHARACTERS = 64
"""Within which an answer has declined if it does."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """On an answer, or its beginning.

    shortfall: None when it may stand
    confidence: probability that it is right; None when no model or no log-probability says
    why: half a sentence on the shortfall
    stands: characters of it that are fit to be gone on from
    """

    shortfall: Shortfall | None = None
    confidence: float | None = None
    why: str = ""
    stands: int = 0


FINE = Verdict()


class Watch:
    """Judges one answer of a specialist; texts are normalised.

    The model judges the whole answer, and on the way what is complete of it: fields, lines, and what a caller
    that holds back is about to be shown. The least log-probability, circles and made-up words only get worse as
    an answer goes on, but means and shares may rise again, and a judgement on the way is final: some answers
    escalate that would have stood as a whole. What an answer leaves out counts at its end alone.

    on: whether anything is judged at all
    repaired: whether the answer is held to its format since the one before it broke it
    faulty: whether a fault showed that needs no model to be seen: of format, a refusal, a circle, nothing said
    """

    def __init__(
        self,
        output: Output,
        model: AnswerModel | None,
        settings: CascadeSettings,
        request: Request,
        *,
        on: bool = True,
        repaired: bool = False,
    ) -> None:
        self.model = model
        self.on = on
        self._repaired = repaired
        self.faulty = False
        self._format = format_of(output)
        self._settings = settings
        self._holds_back = request.hold_back
        self._holds_all = request.hold_all
        asked = "\n".join(message.content for message in request.messages)
        self._reader = SignalReader(asked, request.prompt)
        self._tokens = 0
        self._complete = 0

    def take(self, logprob: float | None, text: str) -> Verdict:
        """Judge the answer so far, `text`, once another token has come."""
        if not self.on:
            return FINE
        verdict = self._so_far(logprob, text)
        self.faulty |= verdict.shortfall not in {None, Shortfall.LOW_CONFIDENCE}
        return verdict

    def _so_far(self, logprob: float | None, text: str) -> Verdict:
        self._reader.take(logprob)
        self._tokens += 1
        why = self._format.why_not_yet(text) if self._format else ""
        if why:
            return Verdict(Shortfall.INVALID, None, f"The local answer cannot become valid ({why})")
        if self._format is None and len(text) <= _REFUSAL_CHARACTERS and refuses(text):
            return Verdict(Shortfall.REFUSAL, None, "The local model declined")
        if text[-1:].isspace() or self._tokens % 8 == 0:
            start = loop_start(text)
            if start is not None:
                stands = 0 if self._format else start
                return Verdict(Shortfall.REPETITION, None, "The local answer went in circles", stands)
        if not self._is_checkpoint(text):
            return FINE
        return self._by_model(text, cut=False, invalid=False, whole=False)

    def end(self, text: str, *, cut: bool) -> Verdict:
        """Judge the whole answer; `cut` when the token limit ended it."""
        if not self.on:
            return FINE
        why = self._format.why_not(text) if self._format else ""
        verdict = self._by_model(text, cut=cut, invalid=bool(why))
        self.faulty |= bool(why) or not text
        if why:
            return Verdict(Shortfall.INVALID, verdict.confidence, f"The local answer is not valid ({why})")
        if not text:
            return Verdict(Shortfall.LOW_CONFIDENCE, verdict.confidence, "The local answer is empty")
        return verdict

    def showable(self, text: str) -> int:
        """Return how many characters of the answer so far are past the commit point."""
        if not self._holds_back or not self.on:
            return len(text)
        if self._holds_all:
            # Without labels, free text is judged by how it begins; a circle that comes later is flagged, not replaced.
            judged = self._format is None and self.model is None and len(text) > _REFUSAL_CHARACTERS
            return len(text) if judged else 0
        if self._format is None:
            return len(text) if self._tokens >= self._settings.commit_tokens else 0
        return self._format.complete(text) if self._settings.commit == "field" else 0

    def _is_checkpoint(self, text: str) -> bool:
        complete = self._format.complete(text) if self._format else text.rfind("\n") + 1
        grown = complete > self._complete
        self._complete = max(complete, self._complete)
        return grown or (self._holds_back and self._tokens == self._settings.commit_tokens)

    def _by_model(self, text: str, *, cut: bool, invalid: bool, whole: bool = True) -> Verdict:
        if self.model is None:
            return FINE
        signals = self._reader.signals(text, cut=cut, invalid=invalid, repaired=self._repaired, whole=whole)
        confidence = confidence_of(self.model.curve, signals)
        required = self.model.required_confidence
        if confidence is None or (confidence >= required and self.model.holds):
            return Verdict(None, confidence)
        needed = f"{required:.2f} is needed" if self.model.holds else "no label shows that any may stand"
        return Verdict(
            Shortfall.LOW_CONFIDENCE,
            confidence,
            f"The local answer is right with probability {confidence:.2f}, and {needed}",
        )
