"""`pointsman specialists ls | promote | rollback`."""

import json
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from pointsman.cli.rollout import promote, rollback
from pointsman.client import DEFAULT_ADDRESS, Access, Client
from pointsman.v1 import catalog_pb2 as pb

specialists = typer.Typer(
    help="Specialists: how they are doing, and new versions of them.", no_args_is_help=True
)
specialists.command()(promote)
specialists.command()(rollback)
_MIB = 1 << 20
_UNKNOWN = "-"


@specialists.command()
def ls(
    address: Annotated[str, typer.Option(help="host:port of a running server.")] = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each specialist's engine: state, memory, slots, queue, speed, cache hits, adapter, intents.

    Below the table: how new versions do that are on their way (see `promote`).
    """
    with Client(address, access=Access.from_environment()) as client:
        listed = client.list_specialists()
    if as_json:
        print(json.dumps([_plain(status) for status in listed.specialists], indent=2))
        return
    rows = [_HEADERS, *(_row(status) for status in listed.specialists)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADERS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for status in listed.specialists:
        if status.HasField("trial"):
            print(_on_trial(status))
        if status.error:
            print(f"{status.specialist.name}: {status.error}")


_HEADERS = (
    "specialist", "engine", "state", "memory", "busy/slots", "waiting", "tokens/s", "cache hits", "adapter", "intents",
)  # fmt: skip


def _row(status: pb.SpecialistStatus) -> tuple[str, ...]:
    figures = status.figures
    known = status.HasField("figures")
    state = pb.EngineState.Name(status.engine_state).removeprefix("ENGINE_STATE_").lower()
    sha256 = status.specialist.adapter.artifact.sha256
    return (
        status.specialist.name,
        figures.engine.rpartition(" ")[2] or _UNKNOWN,
        state if status.loaded else f"{state}, not loaded",
        f"{figures.resident_bytes / _MIB:.0f} MiB" if figures.HasField("resident_bytes") else _UNKNOWN,
        f"{figures.busy_slots}/{figures.slots}" if known else _UNKNOWN,
        str(figures.waiting) if known else _UNKNOWN,
        f"{figures.tokens_per_s:.1f}" if figures.HasField("tokens_per_s") else _UNKNOWN,
        f"{figures.hit_rate:.0%}" if figures.HasField("hit_rate") else _UNKNOWN,
        sha256[:8] or "none",
        str(len(status.intents)),
    )


def _on_trial(status: pb.SpecialistStatus) -> str:
    trial = status.trial
    stage = pb.RolloutStage.Name(trial.stage).removeprefix("ROLLOUT_STAGE_").lower()
    same = f"; {_share(trial.same)} said the same" if trial.same.answers else ""
    return (
        f"{status.specialist.name}: a new version is at stage {stage}: {_share(trial.candidate)} of its answers "
        f"succeeded, {_share(trial.live)} of the live version's{same}"
    )


def _share(tally: pb.Tally) -> str:
    return f"{tally.successes} of {tally.answers}"


def _plain(status: pb.SpecialistStatus) -> dict[str, Any]:
    return MessageToDict(status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
