"""`pointsman calibrate`: a promise from labelled traffic."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.options import Config

if TYPE_CHECKING:
    from pointsman.settings import Settings


def calibrate(
    data: Annotated[
        Path,
        typer.Option(
            help='Labelled prompts, JSONL: {"text": …, "intent": … or null}; a later turn of a conversation as '
            '{"turns": […], …} or {"messages": […], …}.'
        ),
    ],
    risk: Annotated[
        float, typer.Option(help="Largest share of prompts that may go to a wrong specialist.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option(help="How sure the promise must be.")] = 0.95,
    prompts: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000_000,
            help="How many prompts to come the promise is about: 1/risk or more. Among fewer, chance may break it.",
        ),
    ] = 10_000,
    out: Annotated[Path | None, typer.Option(help="File to write; paths.calibration when left out.")] = None,
    config: Config = None,
) -> None:
    """Set the required confidence from held-out labelled traffic, so that a stated risk holds.

    The labels must be drawn as traffic is drawn, and must not be exemplars. Where they cannot support the
    promise, the file lets no intent accept a prompt, and the exit status is 1.
    """
    from pointsman.artifacts.whole_file import whole_file
    from pointsman.catalog.calibration_file import calibration_json
    from pointsman.errors import ConfigError
    from pointsman.host.logs import configure_logs
    from pointsman.host.offline import load_catalog, open_workbench
    from pointsman.review.calibrate import Serving, calibrate_on, unseen
    from pointsman.review.traffic import check_intents, read_traffic
    from pointsman.settings import load

    for name, value in (("--risk", risk), ("--confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name}: must lie between 0 and 1 (got {value})")
    if prompts < (least := math.ceil(1 / risk)):
        raise ConfigError(
            f"--prompts: of so few, no wrong one would be allowed: with --risk {risk:g} give {least:,} or more "
            f"(got {prompts})"
        )
    settings = load(config)
    configure_logs(settings.log)
    traffic = read_traffic(data, need_labels=True, conversations=True)
    catalog = load_catalog(settings)
    check_intents(traffic, {intent.name for intent in catalog.intents}, data)
    with open_workbench(settings) as bench:
        matcher = bench.matcher(catalog)
        held_out, left_out = unseen(matcher, traffic)
        serving = Serving(settings.routing, settings.conversations)
        promise = calibrate_on(
            matcher, bench.encoder_hash, held_out, bench.embed, left_out, risk, confidence, prompts, serving
        )
    path = out or settings.paths.calibration
    try:
        with whole_file(path) as file:  # a server may watch it
            file.write(calibration_json(promise).encode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    labels = promise.labels
    print(
        f"{labels.total} labels ({labels.in_scope} in scope, {labels.out_of_scope} out of scope"
        + (f"; {labels.conversations} of a later turn" if labels.conversations else "")
        + (f"; {labels.left_out} left out, being exemplars" if labels.left_out else "")
        + f"); confidence: ECE {promise.ece:.3f}, Brier {promise.brier:.3f}"
    )
    if promise.holds:
        print(
            f"promise: at most {risk:.1%} of the next {prompts:,} prompts go to a wrong specialist, with {confidence:.0%} confidence "
            f"({promise.wrong} did; upper bound {promise.bound:.2%})"
        )
        print(
            f"required confidence {promise.required_confidence:.3f}; {promise.local_share:.1%} answered locally"
        )
        if not labels.conversations:
            print(
                "note: it is about first turns only, as all labels are single prompts; a follow-up goes where the turn "
                "before it went. Label later turns too, with `turns` or `messages`, for a promise that covers them."
            )
        print(f"written to {path}")
        return
    more = (
        f"about {promise.labels_missing} more labels like these would support one"
        if promise.labels_missing
        else "more labels will not help: too many of the surest routes are wrong (see `pointsman lint`), or "
        "--prompts are too few for chance to leave room"
    )
    typer.echo(
        f"no promise: these labels do not show that at most {risk:.1%} of the next {prompts:,} prompts go wrong with {confidence:.0%} "
        f"confidence; {more}. With {path} no intent accepts a prompt: {_fate(settings)}.",
        err=True,
    )
    raise typer.Exit(1)


def _fate(settings: "Settings") -> str:
    """Return what becomes of prompts that no intent accepts."""
    routing = settings.routing
    if settings.cloud.model:
        return "all go to the cloud"
    if routing.on_no_cloud == "general" and routing.general_specialist:
        return f"no cloud is configured, so the general specialist ({routing.general_specialist}) answers all"
    return "no cloud is configured, so none is answered"
