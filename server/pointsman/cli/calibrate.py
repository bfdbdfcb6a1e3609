"""`pointsman calibrate`: a promise from labelled traffic."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman.cli.options import Config


def calibrate(
    data: Annotated[Path, typer.Option(help='Labelled prompts, JSONL: {"text": …, "intent": … or null}.')],
    risk: Annotated[
        float, typer.Option(help="Largest share of all prompts that may go to a wrong specialist.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option(help="How sure the promise must be.")] = 0.95,
    out: Annotated[Path | None, typer.Option(help="File to write; paths.calibration when left out.")] = None,
    config: Config = None,
) -> None:
    """Set the required confidence from held-out labelled traffic, so that a stated risk holds.

    The labels must be drawn as traffic is drawn, and must not be exemplars. Where they cannot support the
    promise, the file sends every prompt to the cloud, and the exit status is 1.
    """
    from pointsman.catalog.calibration_file import calibration_json
    from pointsman.errors import ConfigError
    from pointsman.host.logs import configure_logs
    from pointsman.host.offline import load_catalog, open_workbench
    from pointsman.review.calibrate import calibrate_on, unseen
    from pointsman.review.traffic import check_intents, read_traffic
    from pointsman.settings import load

    for name, value in (("--risk", risk), ("--confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name}: must lie between 0 and 1 (got {value})")
    settings = load(config)
    configure_logs(settings.log)
    traffic = read_traffic(data, need_labels=True)
    catalog = load_catalog(settings)
    check_intents(traffic, {intent.name for intent in catalog.intents}, data)
    with open_workbench(settings) as bench:
        matcher = bench.matcher(catalog)
        held_out, left_out = unseen(matcher, traffic)
        rows = bench.embed([item.text for item in held_out])
        promise = calibrate_on(matcher, bench.encoder_hash, held_out, rows, left_out, risk, confidence)
    path = out or settings.paths.calibration
    path.write_text(calibration_json(promise), encoding="utf-8")
    labels = promise.labels
    print(
        f"{labels.total} labels ({labels.in_scope} in scope, {labels.out_of_scope} out of scope"
        + (f"; {labels.left_out} left out, being exemplars" if labels.left_out else "")
        + f"); confidence: ECE {promise.ece:.3f}, Brier {promise.brier:.3f}"
    )
    if promise.holds:
        print(
            f"promise: at most {risk:.1%} of prompts go to a wrong specialist, with {confidence:.0%} confidence "
            f"({promise.wrong} did; upper bound {promise.bound:.2%})"
        )
        print(
            f"required confidence {promise.required_confidence:.3f}; {promise.local_share:.1%} answered locally"
        )
        print(f"written to {path}")
        return
    more = (
        f"about {promise.labels_missing} more labels like these would support one"
        if promise.labels_missing
        else "more labels will not help: too many of the surest routes are wrong; see `pointsman lint`"
    )
    typer.echo(
        f"no promise: these labels do not show that at most {risk:.1%} go wrong with {confidence:.0%} "
        f"confidence; {more}. {path} sends every prompt to the cloud.",
        err=True,
    )
    raise typer.Exit(1)
