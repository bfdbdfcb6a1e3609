"""Tokens over time to a smoothed rate, and answers to what is usual of an adapter. Knows no engine."""

from dataclasses import dataclass

from pointsman.values.events import Usage

_WINDOW_S = 0.5
_SHARE = 0.2


class Speed:
    """Tokens a second while at work; None until half a second of work was seen."""

    def __init__(self) -> None:
        self.per_s: float | None = None
        self._tokens = 0.0
        self._seconds = 0.0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """Note that work begins, if none is going on."""
        self._since = now if self._since is None else self._since

    def end(self, now: float) -> None:
        """Note that no work is left: idle time slows nobody down."""
        self.note(0.0, now)
        self._since = None

    def note(self, tokens: float, now: float) -> None:
        """Count tokens that were made up to `now`."""
        if self._since is None:
            return
        self._tokens += tokens
        self._seconds += now - self._since
        self._since = now
        if self._seconds >= _WINDOW_S and self._tokens:
            rate = self._tokens / self._seconds
            self.per_s = rate if self.per_s is None else self.per_s + _SHARE * (rate - self.per_s)
            self._tokens = self._seconds = 0.0


@dataclass(slots=True)
class Tally:
    """Of one adapter: what was answered, and how much of the prompts was in a cache already."""

    answers: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    usual_tokens: float = 0.0

    def note(self, usage: Usage) -> None:
        """Count an answer."""
        share = _SHARE if self.answers else 1.0
        self.answers += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.usual_tokens += share * (usage.completion_tokens - self.usual_tokens)

    @property
    def hit_rate(self) -> float | None:
        """Share of prompt tokens that a cache had; None before the first answer."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None
