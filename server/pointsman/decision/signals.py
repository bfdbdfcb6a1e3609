"""Tokens of an answer to what they say of how sure it is. Pure; knows no model and no format.

What a small model's log-probabilities are worth, as AUROC for 'the answer is exactly right' of the three shipped
adapters: minimum 0.79-0.98, mean of the three lowest 0.82-0.98, plain mean 0.81-0.98 (their cards); the first tokens
next to nothing. So the whole answer is judged, or what of it is complete.
What they do not see is a word that was made up and is then written with ease, or one that was forgotten: of a
specialist that copies from its prompt (slots, columns, order numbers), a word that is neither its own nor the prompt's
is a sign of error, and so is a name, or a word of two lines of the prompt, that the answer leaves out; a quoted value
that is not the prompt's to the letter; a field that is named after the question, where the lines before it name the
fields; one field twice.
"""

import heapq
import math
import re
from collections import Counter
from functools import cached_property

from pointsman.values.cascade import Signals

REFUSALS = (
    "i'm sorry, but",
    "i am sorry, but",
    "i'm sorry, i",
    "sorry, i can",
    "i apologize, but",
    "i cannot ",
    "i can't ",
    "i can not ",
    "i'm not able to",
    "i am not able to",
    "i'm unable to",
    "i am unable to",
    "i don't know",
    "i do not know",
    "as an ai",
    "as a language model",
    "i don't have access",
    "i do not have access",
)
"""How small instruction-tuned models begin when they decline; in lower case, straight apostrophes."""
FLOOR = -20.0
"""The least log-probability that counts; a null one of the engine is less, and no confidence at all."""
_WORDS = 4
_LONGEST_PERIOD = 24
_REPEATS = 4
_LEAST_WORDS = 12
_LINES = 4
_WORD = re.compile(r"\S+")
_LETTERS = re.compile(r"\w+")
_PARTS = re.compile(r"[^\W_]+")
"""`city` and `Host` in `Host_City`: what a prompt says of a field, it says in words."""
_QUOTED = re.compile(r"(?<!\w)'(.*?)'(?!\w)|\"(.*?)\"")
"""What stands in quotes; an apostrophe within a word ends none."""
_OPEN_QUOTE = re.compile(r"((?<!\w)'|\").*", re.DOTALL)
_AROUND = ",:;{}[]"
_SENTENCE_ENDS = ".?!:"
_OPENERS = " \t\"'“‘«„(["


class SignalReader:
    """Reads one answer as it comes; `asked` is the conversation that it answers, `prompt` its last message."""

    def __init__(self, asked: str = "", prompt: str = "") -> None:
        self._asked = asked
        self._prompt = prompt
        self._three: list[float] = []  # the three least, negated: a heap whose root is the greatest of them
        self._total = 0.0
        self._tokens = 0

    def take(self, logprob: float | None) -> None:
        """Note a token; None where the engine does not tell."""
        if logprob is None:
            return
        value = FLOOR * 2 if math.isnan(logprob) or logprob == -math.inf else max(FLOOR, min(0.0, logprob))
        self._tokens += 1
        self._total += value
        if len(self._three) < 3:
            heapq.heappush(self._three, -value)
        else:
            heapq.heappushpop(self._three, -value)

    def signals(
        self,
        text: str,
        *,
        cut: bool = False,
        invalid: bool = False,
        repaired: bool = False,
        whole: bool = True,
    ) -> Signals:
        """Return what the tokens so far say; `text` is the answer that they make, normalised.

        whole: nothing more comes; what has not been said yet is not left out.
        """
        told = self._tokens
        said = parts_of(text) if whole else None
        bare = _bare_words(text, whole=whole)
        return Signals(
            lowest=-max(self._three) if told else 0.0,
            lowest_three=-sum(self._three) / len(self._three) if told else 0.0,
            mean=self._total / told if told else 0.0,
            total=self._total,
            tokens=told,
            repeated=repeated_share(text),
            cut=cut,
            refusal=refuses(text),
            invalid=invalid,
            repaired=repaired,
            strange=words_of(text, whole=whole) - self._words,
            unnamed=frozenset() if said is None else names_of(self._prompt) - said,
            unsaid=frozenset() if said is None else subjects_of(self._prompt) - said,
            untold=frozenset() if said is None else self._last_line - said,
            altered=frozenset(quote for quote in quotes_of(text) if quote not in self._letters),
            borrowed=self._borrowed(bare),
            twice=frozenset(word for word, n in Counter(bare).items() if n > 1),
        )

    def _borrowed(self, bare: list[str]) -> frozenset[str]:
        """Return the words of the last line that no line before it holds as they stand; none without such lines."""
        named = self._named
        return frozenset(w for w in bare if named and w not in named and parts_of(w) <= self._last_line)

    @cached_property
    def _words(self) -> frozenset[str]:
        return words_of(self._asked)

    @cached_property
    def _letters(self) -> str:
        return self._asked.casefold()

    @cached_property
    def _last_line(self) -> frozenset[str]:
        return parts_of(self._prompt.rstrip().rpartition("\n")[2])

    @cached_property
    def _named(self) -> frozenset[str]:
        """What white space parts in the lines before the last."""
        before = self._prompt.rstrip().rpartition("\n")[0]
        return frozenset(chunk.strip(_AROUND) for chunk in before.casefold().split())


def unsure_at_all(signals: Signals) -> bool:
    """Whether the engine could not tell how likely a token was: no confidence."""
    return signals.lowest < FLOOR


def refuses(text: str) -> bool:
    """Whether an answer begins by declining."""
    begun = text.lstrip()[:32].casefold().replace("’", "'")
    return begun.startswith(REFUSALS)


def words_of(text: str, *, whole: bool = True) -> frozenset[str]:
    """Return the runs of letters, digits and underscores, in lower case; not one that may go on, unless `whole`."""
    words = _LETTERS.findall(text.casefold())
    if words and not whole and (text[-1].isalnum() or text[-1] == "_"):
        del words[-1]
    return frozenset(words)


def parts_of(text: str) -> frozenset[str]:
    """Return the runs of letters and digits, in lower case: a field's name falls into its words."""
    return frozenset(_PARTS.findall(text.casefold()))


def quotes_of(text: str) -> frozenset[str]:
    """Return what stands in quotes, in lower case; a quote that is still open is none."""
    return frozenset(one or other for one, other in _QUOTED.findall(text.casefold()))


def _bare_words(text: str, *, whole: bool) -> list[str]:
    """Return what white space parts outside of quotes, in lower case; not one that may go on, unless `whole`."""
    bare = _QUOTED.sub(" ", text.casefold())
    if not whole:
        bare = _OPEN_QUOTE.sub(" ", bare)
    chunks = [chunk.strip(_AROUND) for chunk in bare.split()]
    if chunks and not whole and not bare[-1].isspace():
        del chunks[-1]
    return [chunk for chunk in chunks if any(map(str.isalnum, chunk))]


def names_of(text: str) -> frozenset[str]:
    """Return the words, in lower case, that begin with a capital within a sentence; of lines all in capitals none."""
    found = set()
    for line in text.splitlines():
        if line.isupper():
            continue
        for match in _PARTS.finditer(line):
            before = line[: match.start()].rstrip(_OPENERS)
            if before and before[-1] not in _SENTENCE_ENDS and match.group()[0].isupper():
                found.add(match.group().casefold())
    return frozenset(word for word in found if word.isalpha())


def subjects_of(text: str) -> frozenset[str]:
    """Return the words of two letters or more, in lower case, that two lines hold: a field, and a question about it."""
    counts = Counter(word for line in text.splitlines() for word in parts_of(line))
    return frozenset(word for word, n in counts.items() if n > 1 and len(word) > 1 and not word.isdigit())


def repeated_share(text: str) -> float:
    """Return the share of four-word sequences that came before, in [0, 1]."""
    words = text.split()
    if len(words) <= _WORDS:
        return 0.0
    sequences = [tuple(words[i : i + _WORDS]) for i in range(len(words) - _WORDS + 1)]
    return 1.0 - len(set(sequences)) / len(sequences)


def loop_start(text: str) -> int | None:
    """Return where an answer begins to go in circles, after once around; None while it does not.

    Circles are four lines in a row that are the same, or up to 24 words four times in a row, 12 words at least.
    """
    lines = text.split("\n")
    last = [line for line in lines[:-1] if line.strip()][-_LINES:]
    if len(last) == _LINES and len(set(last)) == 1:
        return text.index(last[0]) + len(last[0])
    tail = list(_WORD.finditer(text[-_LONGEST_PERIOD * _REPEATS * 16 :]))
    offset = max(0, len(text) - _LONGEST_PERIOD * _REPEATS * 16)
    words = [match.group() for match in tail]
    for period in range(1, min(_LONGEST_PERIOD, len(words) // _REPEATS) + 1):
        repeats = max(_REPEATS, -(-_LEAST_WORDS // period))
        size = period * repeats
        if len(words) < size:
            continue
        circle = words[-size:]
        if circle == circle[:period] * repeats:
            first = len(words) - size
            while first and words[first - 1] == words[first - 1 + period]:
                first -= 1
            return offset + tail[first + period - 1].end()
    return None
