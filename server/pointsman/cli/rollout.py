"""`pointsman specialists promote | rollback`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.options import Config

if TYPE_CHECKING:
    from pointsman.settings import Settings
    from pointsman.values.catalog import Rollout

Name = Annotated[str, typer.Argument(help="The specialist.", show_default=False)]


def promote(
    name: Name,
    candidate: Annotated[
        Path | None,
        typer.Option(help="Manifest of the new version: begins in shadow. Without it: on to the next stage."),
    ] = None,
    share: Annotated[
        float,
        typer.Option(help="Of requests: compared while in shadow, answered by the candidate as a canary."),
    ] = 0.1,
    bound: Annotated[
        float, typer.Option(help="Drop in the share of answers that succeed from which it goes back.")
    ] = 0.05,
    answers: Annotated[int, typer.Option(help="Answers of the candidate that each stage needs.")] = 50,
    agreement: Annotated[
        float,
        typer.Option(
            help="Least share of its answers in shadow that must say what callers got; 0: none need to."
        ),
    ] = 0.7,
    config: Config = None,
) -> None:
    """Bring a new version of a specialist into use: shadow, canary, all.

    A running server moves it on by itself, and takes it back when its answers succeed less often than those of
    the live version by more than the bound, or differ from what callers got too often. With
    --candidate, the held-out figures of both adapters' cards are shown. Without --candidate the next stage comes now, by hand.
    """
    from pointsman.catalog.files import read
    from pointsman.catalog.schema import SpecialistFile
    from pointsman.errors import ConfigError
    from pointsman.host.cards import compared
    from pointsman.host.offline import file_store
    from pointsman.host.rollouts import begin, move_on
    from pointsman.settings import load
    from pointsman.values.catalog import Specialist

    for option, value, fits, wanted in (
        ("--share", share, 0 < share <= 1, "above 0 and at most 1"),
        ("--bound", bound, 0 <= bound < 1, "at least 0 and under 1"),
        ("--answers", answers, answers >= 1, "at least 1"),
        ("--agreement", agreement, 0 <= agreement <= 1, "from 0 to 1"),
    ):
        if not fits:
            raise ConfigError(f"{option}: must be {wanted} (got {value})")
    settings = load(config)
    store = file_store(settings)
    if candidate is None:
        rollout = store.rollouts.read(name)
        stage = move_on(store, name)
        if rollout is not None:
            _print_figures(rollout)
            _print_unfitted(settings, rollout)
        print(f"{name}: the candidate is {f'at stage {stage}' if stage else 'the live version'}")
        return
    stated = read(candidate, SpecialistFile, str(candidate)).value
    assert isinstance(stated, Specialist)  # noqa: S101 - narrows the union
    if stated.name != name:
        raise ConfigError(f"{candidate}: name is {stated.name!r}, the specialist to promote is {name!r}")
    live = store.load().specialist(name)
    rollout = begin(store, stated, share, bound, answers, agreement)
    if live is not None:
        print("\n".join(compared(live, stated, settings.paths.specialists)))
    print(f"{name}: the candidate is in shadow for {share:.0%} of requests; a running server takes it up")
    _print_unfitted(settings, rollout)


def rollback(name: Name, config: Config = None) -> None:
    """End the rollout of a specialist; without one, exchange the live version for the one before it."""
    from pointsman.host.offline import file_store
    from pointsman.host.rollouts import roll_back
    from pointsman.settings import load

    ended = roll_back(file_store(load(config)), name)
    if ended is None:
        print(f"{name}: the version before is live again; `rollback` once more exchanges them back")
        return
    _print_figures(ended)
    print(f"{name}: the rollout ended at stage {ended.stage}; the live version answers")


def _print_unfitted(settings: "Settings", rollout: "Rollout") -> None:
    """Say that the live version's answers are judged by a fitted model, and the candidate's are not."""
    from pointsman.catalog.cascade_file import read_cascade

    path, marked = settings.paths.cascade, rollout.candidate
    if not path.is_file():
        return
    cascade = read_cascade(path)
    if cascade.named(rollout.name) is None or cascade.model(rollout.name, marked.answers_hash) is not None:
        return
    print(
        f"warning: {path} is fitted for the live version of {rollout.name}, not for the candidate: once that is "
        f"live, unsure answers escalate no more. `pointsman cascade collect --specialist {marked.name}`, then "
        "`fit`, mend that beforehand."
    )


def _print_figures(rollout: "Rollout") -> None:
    for past in rollout.past:
        same = f"; {past.same} said the same" if past.same.answers else ""
        print(f"{past.stage:>7}: {past.candidate} succeeded, of the live version {past.live}{same}")
