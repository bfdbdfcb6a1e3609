"""Tokens over time to smoothed rates, and answers to what is usual of an adapter. Knows no engine."""

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
        self._left_out = 0.0  # up to when

    def begin(self, now: float) -> None:
        """Note that work begins, if none is going on."""
        self._since = now if self._since is None else self._since

    def end(self, now: float) -> None:
        """Note that no work is left: idle time slows nobody down."""
        self.note(0.0, now)
        self._since = None

    def leave_out(self, seconds: float, now: float) -> None:
        """Do not count the last seconds as work; of those that overlap with others that were left out, the rest."""
        if self._since is not None:
            self._seconds -= max(0.0, now - max(now - seconds, self._left_out))
            self._left_out = now

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

    def of_usual_length(self, tokens: int) -> float:
        """Return about how long an answer of at most `tokens` will be (0: no limit)."""
        return min(tokens or self.usual_tokens, self.usual_tokens)

    @property
    def hit_rate(self) -> float | None:
        """Share of prompt tokens that a cache had; None before the first answer."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None


class Pace:
    """Of one engine: how fast it reads prompts and makes answers, and what is usual of each adapter."""

    def __init__(self) -> None:
        self.speed = Speed()
        """Of all answers together, reading of prompts included."""
        self._saying = Speed()  # the same without it
        self._reading: float | None = None  # prompt tokens a second
        self._tallies: dict[str, Tally] = {}
        self._all = Tally()

    def tally(self, adapter: str) -> Tally:
        """Return what is known of an adapter's answers."""
        return self._tallies.setdefault(adapter, Tally())

    def work(self, now: float, *, going_on: bool) -> None:
        """Note whether answers are made from now on."""
        for speed in (self.speed, self._saying):
            (speed.begin if going_on else speed.end)(now)

    def said(self, tokens: float, now: float) -> None:
        """Count tokens of answers."""
        self.speed.note(tokens, now)
        self._saying.note(tokens, now)

    def read(self, tokens: int, seconds: float, now: float) -> None:
        """Count tokens of a prompt that took so long to read, until now."""
        if tokens > 0 and seconds > 0:
            rate = tokens / seconds
            self._reading = rate if self._reading is None else self._reading + _SHARE * (rate - self._reading)
            self._saying.leave_out(seconds, now)
            self._saying.note(0.0, now)

    def answered(self, adapter: str, usage: Usage) -> None:
        """Count an answer."""
        self.tally(adapter).note(usage)
        self._all.note(usage)

    def usual_tokens(self, adapter: str, tokens: int) -> float:
        """Return about how long an answer of at most `tokens` will be: as others of its adapter, or of them all.

        0 while nothing is known.
        """
        known = self._tallies.get(adapter)
        return (known if known is not None and known.answers else self._all).of_usual_length(tokens)

    def saying_s(self, tokens: float) -> float:
        """Return the seconds to make `tokens` of answers, together; 0 while nothing is known."""
        rate = self._saying.per_s or self.speed.per_s
        return tokens / rate if rate else 0.0

    def reading_s(self, adapter: str, tokens: int) -> float:
        """Return the seconds to read a prompt, of which a cache has its usual share; 0 while nothing is known."""
        known = self._tallies.get(adapter)
        share = 1.0 - ((known.hit_rate if known is not None else None) or 0.0)
        return tokens * share / self._reading if self._reading else 0.0
