"""What becomes of a new version of a specialist, in files: begun, moved on, taken back. Blocking."""

from dataclasses import replace

from pointsman.catalog.rollouts import marked, unmarked
from pointsman.catalog.store import FileStore
from pointsman.decision.trial import Course, Verdict
from pointsman.errors import CatalogError, PreconditionError, UnknownNameError
from pointsman.values.catalog import Catalog, Problem, Rollout, Specialist
from pointsman.values.rollout import Past, Stage, Tally

_NEXT = {Stage.SHADOW: Stage.CANARY, Stage.CANARY: Stage.ALL}


def begin(
    store: FileStore, candidate: Specialist, share: float, bound: float, answers: int, agreement: float
) -> Rollout:
    """Put a new version of a live specialist into shadow; see `Rollout` for the terms.

    Raises:
        UnknownNameError: no specialist of that name is live.
        PreconditionError: another rollout is on its way, or the candidate is what is live.

    """
    live = _live(store.load(), candidate.name)
    if store.rollouts.read(candidate.name) is not None:
        message = f"specialist {candidate.name!r} has a rollout on its way; promote it without --candidate, or roll it back"
        raise PreconditionError(message)
    if candidate == live:
        raise PreconditionError(f"the candidate for {candidate.name!r} is the version that is live")
    rollout = Rollout(
        candidate.name, marked(candidate), share=share, bound=bound, answers=answers, agreement=agreement
    )
    store.rollouts.put(rollout)
    return rollout


def move_on(store: FileStore, name: str) -> Stage | None:
    """Take a rollout to its next stage by hand; returns that, None once the candidate is the live version.

    Raises:
        UnknownNameError: no specialist of that name is live.
        PreconditionError: it has no rollout.
        CatalogError: the rollout's file cannot be used.

    """
    live = _live(store.load(), name)
    rollout = store.rollouts.read(name)
    if rollout is None:
        raise PreconditionError(f"specialist {name!r} has no rollout; begin one with --candidate")
    advance(store, live, rollout, Verdict(Course.ADVANCE, "by hand"), Past(rollout.stage, Tally(), Tally()))
    return _NEXT.get(rollout.stage)


def roll_back(store: FileStore, name: str) -> Rollout | None:
    """End the rollout of a specialist; where there is none, exchange the live version for the one before it.

    Raises:
        UnknownNameError: no specialist of that name is live.
        PreconditionError: there is neither.
        CatalogError: what is there cannot be used.

    """
    live = _live(store.load(), name)
    rollout = store.rollouts.read(name)
    if rollout is not None:
        store.rollouts.reject(rollout, "by hand")
        return rollout
    previous = store.rollouts.previous(name)
    if previous.name != name:
        problem = Problem(f"previous/{name}.yaml", 0, "name", previous.name, "another specialist's version")
        raise CatalogError([problem])
    store.put_specialist(previous)
    store.rollouts.keep(live)
    return None


def advance(store: FileStore, live: Specialist, rollout: Rollout, verdict: Verdict, past: Past) -> None:
    """Write what a verdict means: the next stage, the candidate in the place of the live version, or its end.

    Raises:
        PreconditionError: the folder cannot be written.

    """
    if verdict.course is Course.BACK:
        store.rollouts.reject(replace(rollout, past=(*rollout.past, past)), verdict.why)
        return
    following = _NEXT.get(rollout.stage)
    if following is not None:
        store.rollouts.put(replace(rollout, stage=following, past=(*rollout.past, past)))
        return
    store.rollouts.keep(live)
    store.put_specialist(unmarked(rollout))
    store.rollouts.end(rollout.name)


def _live(catalog: Catalog, name: str) -> Specialist:
    live = catalog.specialist(name)
    if live is None:
        raise UnknownNameError("specialist", name, sorted(s.name for s in catalog.specialists))
    return live
