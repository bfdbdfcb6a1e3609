"""A text to the sensitive spans in it. Knows no requests, and what is done about a span.

Found by libraries that are kept for it (extra `policy`): presidio-analyzer's pattern recognisers, with their
checksums, its named entities where a model of spaCy is installed, and Kingfisher's rules for credentials. The
recognisers are asked one by one: the whole analyzer would run a language pipeline over each prompt for the sake
of context words, at several times the cost.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import regex

from pointsman.errors import ConfigError
from pointsman.policy.cards import card_spans
from pointsman.policy.credentials import Credentials
from pointsman.policy.emails import email_finder
from pointsman.policy.outline import NEEDS, NOTHING_NEEDED, WITH_COUNTRY_CODE, Needs, Outline, needs_of_phone
from pointsman.policy.plain_text import UNPARTED, PlainText, plain_text, readings
from pointsman.values.kinds import NER, PRESIDIO
from pointsman.values.policy import SECRET, Pattern, Policy, Span, WordList

LEAST_SCORE = 0.4
"""Under which presidio calls a match weak: bare digits that only the words around them could explain."""
PATTERN_TIMEOUT_S = 0.5
"""A company's own pattern that takes longer on one message has failed."""
BUDGET_S = 15.0
"""Of a processor, for one message; detection that takes more has failed. Prose of 4 MiB takes 9, digits alone minutes."""
_PIECE, _SHARED = 16_384, 1024
"""Characters of a long text that presidio's recognisers get at once, and those that two pieces share: several times
the longest value."""
_REMEMBERED = 4096
"""Messages whose spans are kept, by hash: the turns before the last one come again with each request."""

Find = Callable[[str], Iterable[Span]]
"""A text, as `plain_text` gives it, to the spans in it."""


@dataclass(frozen=True, slots=True)
class Look:
    """One way to find something.

    as_written: in the text as it stands, too
    by_pieces: in pieces of a long text, because nothing that is found is long
    needs: what a text without it is not searched for
    """

    find: Find
    as_written: bool = False
    by_pieces: bool = False
    needs: Needs = NOTHING_NEEDED


class Detector:
    """Finds the kinds that a policy is about. Threads may share it."""

    def __init__(self, policy: Policy, cache: Path, budget_s: float = BUDGET_S) -> None:
        """Load the recognisers; `cache` keeps compiled rules, seconds the first time.

        Raises:
            ConfigError: the extra `policy`, or the model of spaCy, is not installed.

        """
        try:
            self._looks = tuple(_looks(policy, cache))
        except ModuleNotFoundError as error:
            message = f"a policy needs the extra `policy` ({error.name} is missing): pip install 'pointsman[policy]'"
            raise ConfigError(message) from None
        self._budget_s = budget_s
        self._remembered = lru_cache(_REMEMBERED)(_Remembered)

    def find(self, text: str) -> tuple[Span, ...]:
        """Return what a text holds, in order; one place may be of several kinds.

        Raises:
            TimeoutError: it takes too long.
            Exception: whatever a recogniser raises; who asks must take that for the worst.

        """
        known = self._remembered(sha256(text.encode("utf-8", "surrogatepass")).digest())
        if known.spans is None:
            found = set(self._found(text))
            known.spans = tuple(sorted(found, key=lambda span: (span.start, -span.end, span.kind)))
        return known.spans

    def _found(self, text: str) -> Iterator[Span]:
        seen = tuple(readings(text))
        as_written = () if seen[0].text == text else (PlainText(text, None),)
        until = time.thread_time() + self._budget_s if len(text) > _PIECE else None
        outlines = [Outline(plain.text) for plain in seen]
        for look in self._looks:
            if not any(map(look.needs.met, outlines)):
                continue
            for plain in (*seen, *as_written) if look.as_written else seen:
                found = look.find(plain.text) if until is None else _found_in_time(look, plain.text, until)
                if plain.places is None:
                    yield from found
                else:
                    yield from (Span(span.kind, *plain.before(span.start, span.end)) for span in found)


def _found_in_time(look: Look, text: str, until: float) -> Iterator[Span]:
    whole = _Piece(0, len(text), 0, len(text))
    for piece in _pieces(len(text)) if look.by_pieces else (whole,):
        for span in look.find(text[piece.start : piece.end]):
            if piece.owns_from <= span.start + piece.start < piece.owns_to:
                yield Span(span.kind, span.start + piece.start, span.end + piece.start)
        if time.thread_time() > until:
            raise TimeoutError("detection takes too long")


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of a text, from `start` to `end`. What begins elsewhere than where it owns is of a piece beside it."""

    start: int
    end: int
    owns_from: int
    owns_to: int


def _pieces(length: int) -> Iterator[_Piece]:
    """Yield the pieces of a text; neighbours share some of it, so that none cuts a value that it owns."""
    start = 0
    while True:
        end = min(start + _PIECE, length)
        owns_from = start + _SHARED // 2 if start else 0
        yield _Piece(start, end, owns_from, length if end == length else end - _SHARED // 2)
        if end == length:
            return
        start = end - _SHARED


class _Remembered:
    """The spans of one text. It holds no text."""

    __slots__ = ("spans",)

    def __init__(self, digest: bytes) -> None:
        del digest  # the key of the cache
        self.spans: tuple[Span, ...] | None = None


def _looks(policy: Policy, cache: Path) -> Iterator[Look]:
    kinds = policy.kinds
    yield from (_own(pattern) for pattern in policy.patterns if pattern.name in kinds)
    yield from (_words(words) for words in policy.words if words.name in kinds)
    if SECRET in kinds:
        yield Look(_secrets(cache))
    for kind in sorted(kinds & PRESIDIO.keys()):
        yield from _presidio(kind, policy.phone_regions)
    names = sorted(kinds & NER.keys())
    if names:
        yield Look(_entities(names, policy.ner_model))


def _own(pattern: Pattern) -> Look:
    """Look for a pattern as it stands, and as the text reads that detection sees."""
    forms = [_matches(pattern.name, pattern.regex)]
    with suppress(regex.error):  # what reads as something else there may be no regular expression
        if (read := _as_read(pattern.regex)) != pattern.regex:
            forms.append(_matches(pattern.name, read))
    return Look(lambda text: (span for form in forms for span in form(text)), as_written=True)


def _as_read(pattern: str) -> str:
    """Return a pattern with its characters as `plain_text` reads them; those that gain a meaning are escaped."""
    return "".join(c if c.isascii() else regex.escape(_plain(c)) for c in pattern)


def _matches(kind: str, pattern: str) -> Find:
    compiled = regex.compile(pattern)

    def find(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text, timeout=PATTERN_TIMEOUT_S):
            if match.end() > match.start():
                yield Span(kind, match.start(), match.end())

    return find


def _words(words: WordList) -> Look:
    listed: dict[tuple[str, str], list[str]] = {}
    for phrase in filter(None, map(_plain, words.words)):
        # What parts the words of a phrase may be any white space.
        written = r"\s+".join(regex.escape(word) for word in phrase.split())
        listed.setdefault((_edge(phrase[0], "<!"), _edge(phrase[-1], "!")), []).append(written)
    choices = (
        f"{before}(?:{'|'.join(sorted(written, key=len, reverse=True))}){after}"
        for (before, after), written in listed.items()
    )
    return Look(_matches(words.name, f"(?i)(?:{'|'.join(choices)})"))


def _edge(character: str, side: str) -> str:
    """Return what must not stand beside the end of a word: letters, and digits where it ends with one.

    Nothing where a script parts no words, or a sign ends it.
    """
    if not character.isalnum() or UNPARTED.match(character):
        return ""
    return rf"(?{side}[^\W_])" if character.isdigit() else rf"(?{side}[^\W\d_])"


def _plain(text: str) -> str:
    return plain_text(text).text


def _secrets(cache: Path) -> Find:
    credentials = Credentials(cache)
    return lambda text: (Span(SECRET, found.start, found.end) for found in credentials.find(text))


def _presidio(kind: str, phone_regions: Sequence[str]) -> Iterator[Look]:
    from presidio_analyzer import predefined_recognizers

    maker: Any = getattr(predefined_recognizers, PRESIDIO[kind])
    needs = NEEDS.get(kind, NOTHING_NEEDED)
    if kind == "payment_card":  # presidio's pattern knows neither grouped numbers of every length nor issuers
        yield _of(kind, card_spans, needs)
    elif kind == "email":
        # presidio's knows no internal hosts, and takes what touches an address for a part of it
        yield _of(kind, email_finder(), needs)
    elif kind == "phone":
        # With a country code, any number of a possible length counts; else one that the region hands out.
        yield _recognised(kind, maker(supported_regions=["ZZ"], leniency=0), WITH_COUNTRY_CODE)
        for region in phone_regions:
            yield _recognised(kind, maker(supported_regions=[region]), needs_of_phone(region))
    else:
        yield _recognised(kind, maker(), needs)


def _of(kind: str, places: Callable[[str], Iterable[tuple[int, int]]], needs: Needs) -> Look:
    return Look(
        lambda text: (Span(kind, start, end) for start, end in places(text)), by_pieces=True, needs=needs
    )


def _recognised(kind: str, recogniser: Any, needs: Needs) -> Look:
    def find(text: str) -> Iterator[Span]:
        # Of no number a part, and to regular expressions no border.
        for match in recogniser.analyze(text.replace("_", " "), recogniser.supported_entities, None):
            if match.score >= LEAST_SCORE:
                yield Span(kind, match.start, match.end)

    return Look(find, by_pieces=True, needs=needs)


def _entities(kinds: Sequence[str], model: str) -> Find:
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    if not model:
        raise ConfigError(
            f"a policy about {', '.join(kinds)} needs `ner_model`, the name or folder of a spaCy model"
        )
    engine = SpacyNlpEngine([{"lang_code": "en", "model_name": model}])
    try:
        engine.load()
    except (OSError, SystemExit, ValueError) as error:
        raise ConfigError(f"ner_model {model!r} cannot be loaded: {error}") from None
    recogniser = SpacyRecognizer(supported_entities=[NER[kind] for kind in kinds])
    named = {NER[kind]: kind for kind in kinds}

    def find(text: str) -> Iterator[Span]:
        artifacts = engine.process_text(text, "en")
        for match in recogniser.analyze(text, recogniser.supported_entities, artifacts):
            yield Span(named[match.entity_type], match.start, match.end)

    return find
