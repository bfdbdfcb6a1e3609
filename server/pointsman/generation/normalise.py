"""Text as models stream it to text as callers get it: one place for local and cloud answers.

Leading and trailing white space goes, and so do chat markers at both ends (in the middle they may be what the
answer is about), and the code fence around an answer that is to be JSON, say. What could still turn out to be
one of these is held back, so the result does not depend on where the chunks end.
"""

import re

MARKERS = (
    "<|im_end|>",
    "<|im_start|>assistant",
    "<|im_start|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|end|>",
    "<|assistant|>",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<end_of_turn>",
    "<start_of_turn>model",
    "<bos>",
    "<eos>",
    "</s>",
    "<s>",
    "[/INST]",
    "[INST]",
)
"""Of the templates of Llama, Mistral, Gemma, Phi, Qwen and SmolLM; a longer one stands before its beginning."""
_FENCE = re.compile(r"```[\w+-]{0,24}[ \t]*\n")
_FENCE_BEGUN = re.compile(r"`{1,3}|```[\w+-]{0,24}[ \t]{0,8}")
_CLOSING = "```"


class Normaliser:
    """One answer. `fenced`: a code fence around all of it goes, too."""

    def __init__(self, *, fenced: bool = False) -> None:
        self.text = ""  # what was let through so far
        self._fenced = fenced
        self._open = False
        self._begun = False
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what may be shown of the answer once this piece has come."""
        self._held += piece
        if not self._begun:
            self._begin()
        if not self._begun:
            return ""
        cut = _tail(self._ends).search(self._held)
        shown = len(self._held) if cut is None else cut.start()
        return self._show(shown)

    def end(self) -> str:
        """Return the rest, once the answer has ended."""
        if "<s>" in self.text and self._held.strip() == "</s>":  # HTML, closed where the answer ends
            return self._show(len(self._held.rstrip()))
        ends = _whole_tail(self._ends).search(self._held)
        return self._show(len(self._held) if ends is None else ends.start())

    @property
    def _ends(self) -> tuple[str, ...]:
        return (*MARKERS, _CLOSING) if self._open else MARKERS

    def _begin(self) -> None:
        """Drop what stands before the answer; `_begun` once the rest is the answer itself."""
        while True:
            self._held = self._held.lstrip()
            fence = _FENCE.match(self._held) if self._fenced and not self._open else None
            marker = next((m for m in MARKERS if self._held.startswith(m)), None)
            if fence is not None:
                self._held, self._open = self._held[fence.end() :], True
            elif marker is not None and not self._may_be_longer():
                self._held = self._held.removeprefix(marker)
            else:
                break
        waits = self._may_be_longer() or (
            self._fenced and not self._open and _FENCE_BEGUN.fullmatch(self._held) is not None
        )
        self._begun = bool(self._held) and not waits

    def _may_be_longer(self) -> bool:
        return bool(self._held) and any(
            marker.startswith(self._held) and marker != self._held for marker in MARKERS
        )

    def _show(self, size: int) -> str:
        shown, self._held = self._held[:size], self._held[size:]
        self.text += shown
        return shown


def normalised(text: str, *, fenced: bool = False) -> str:
    """Return a whole answer as a caller gets it."""
    normaliser = Normaliser(fenced=fenced)
    normaliser.feed(text)
    normaliser.end()
    return normaliser.text


_tails: dict[tuple[str, ...], tuple[re.Pattern[str], re.Pattern[str]]] = {}


def _tail(ends: tuple[str, ...]) -> re.Pattern[str]:
    """Match what may be the end of an answer: white space and markers, the last one perhaps not whole yet."""
    return _patterns(ends)[0]


def _whole_tail(ends: tuple[str, ...]) -> re.Pattern[str]:
    """Match white space and markers at the end."""
    return _patterns(ends)[1]


def _patterns(ends: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    if ends not in _tails:
        whole = "|".join([r"\s+", *map(re.escape, ends)])
        begun = {end[:size] for end in ends for size in range(1, len(end))}
        partial = "|".join(map(re.escape, sorted(begun, key=len, reverse=True)))
        _tails[ends] = re.compile(rf"(?:{whole})*(?:{partial})?\Z"), re.compile(rf"(?:{whole})*\Z")
    return _tails[ends]
