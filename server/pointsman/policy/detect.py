"""A text to the sensitive spans in it. Knows no requests, and what is done about a span.

Found by libraries that are kept for it (extra `policy`): presidio-analyzer's pattern recognisers, with their
checksums, its named entities where a model of spaCy is installed, and Kingfisher's rules for credentials. The
recognisers are asked one by one: the whole analyzer would run a language pipeline over each prompt for the sake
of context words, at several times the cost.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import regex

from pointsman.errors import ConfigError
from pointsman.policy.cards import card_spans
from pointsman.policy.credentials import Credentials
from pointsman.policy.plain_text import plain_text
from pointsman.values.kinds import NER, PRESIDIO
from pointsman.values.policy import SECRET, Pattern, Policy, Span, WordList

LEAST_SCORE = 0.4
"""Under which presidio calls a match weak: bare digits that only the words around them could explain."""
PATTERN_TIMEOUT_S = 0.5
"""A company's own pattern that takes longer on one message has failed."""
_REMEMBERED = 4096
"""Messages whose spans are kept, by hash: the turns before the last one come again with each request."""

Look = Callable[[str], Iterable[Span]]
"""A text, as `plain_text` gives it, to the spans in it."""


class Detector:
    """Finds the kinds that a policy is about. Threads may share it."""

    def __init__(self, policy: Policy, cache: Path) -> None:
        """Load the recognisers; `cache` keeps compiled rules, seconds the first time.

        Raises:
            ConfigError: the extra `policy`, or the model of spaCy, is not installed.

        """
        try:
            self._looks = tuple(_looks(policy, cache))
        except ModuleNotFoundError as error:
            message = f"a policy needs the extra `policy` ({error.name} is missing): pip install 'pointsman[policy]'"
            raise ConfigError(message) from None
        self._remembered = lru_cache(_REMEMBERED)(_Remembered)

    def find(self, text: str) -> tuple[Span, ...]:
        """Return what a text holds, in order; one place may be of several kinds.

        Raises:
            Exception: whatever a recogniser raises; who asks must take that for the worst.

        """
        known = self._remembered(sha256(text.encode("utf-8", "surrogatepass")).digest())
        if known.spans is None:
            plain = plain_text(text)
            found = [span for look in self._looks for span in look(plain.text)]
            placed = (Span(span.kind, *plain.before(span.start, span.end)) for span in found)
            known.spans = tuple(sorted(set(placed), key=lambda span: (span.start, -span.end, span.kind)))
        return known.spans


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
        yield _secrets(cache)
    for kind in sorted(kinds & PRESIDIO.keys()):
        yield from _presidio(kind, policy.phone_regions)
    names = sorted(kinds & NER.keys())
    if names:
        yield _entities(names, policy.ner_model)


def _own(pattern: Pattern) -> Look:
    compiled = regex.compile(pattern.regex)

    def look(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text, timeout=PATTERN_TIMEOUT_S):
            if match.end() > match.start():
                yield Span(pattern.name, match.start(), match.end())

    return look


def _words(words: WordList) -> Look:
    # What parts the words of a phrase may be any white space.
    listed = (
        "".join(rf"{regex.escape(w)}\s+" for w in phrase.split()).removesuffix(r"\s+")
        for phrase in map(_plain, words.words)
    )
    choices = "|".join(sorted(listed, key=len, reverse=True))
    return _own(Pattern(words.name, rf"(?i)(?<!\w)(?:{choices})(?!\w)"))


def _plain(text: str) -> str:
    return plain_text(text).text


def _secrets(cache: Path) -> Look:
    credentials = Credentials(cache)
    return lambda text: (Span(SECRET, found.start, found.end) for found in credentials.find(text))


def _presidio(kind: str, phone_regions: Sequence[str]) -> Iterator[Look]:
    from presidio_analyzer import predefined_recognizers

    maker: Any = getattr(predefined_recognizers, PRESIDIO[kind])
    if kind == "payment_card":  # presidio's pattern knows neither grouped numbers of every length nor issuers
        yield lambda text: (Span(kind, start, end) for start, end in card_spans(text))
    elif kind == "phone":
        # With a country code, any number of a possible length counts; else one that the region hands out.
        yield _recognised(kind, maker(supported_regions=["ZZ"], leniency=0))
        if phone_regions:
            yield _recognised(kind, maker(supported_regions=list(phone_regions)))
    else:
        recogniser = maker()
        if kind == "email":
            recogniser.validate_result = _email_validator()
        yield _recognised(kind, recogniser)


def _recognised(kind: str, recogniser: Any) -> Look:
    def look(text: str) -> Iterator[Span]:
        for match in recogniser.analyze(text, recogniser.supported_entities, None):
            if match.score >= LEAST_SCORE:
                yield Span(kind, match.start, match.end)

    return look


def _email_validator() -> Callable[[str], bool]:
    """Return the recogniser's own check, with the list of public suffixes that lies in the package.

    Presidio's would fetch a newer list from the network, in the middle of a request.
    """
    import tldextract

    extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    return lambda address: bool(extract(address).fqdn)


def _entities(kinds: Sequence[str], model: str) -> Look:
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

    def look(text: str) -> Iterator[Span]:
        artifacts = engine.process_text(text, "en")
        for match in recogniser.analyze(text, recogniser.supported_entities, artifacts):
            yield Span(named[match.entity_type], match.start, match.end)

    return look
