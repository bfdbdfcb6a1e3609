"""`pointsman bundle build | verify | show | activate | rollback`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pointsman.cli.options import Config

bundle = typer.Typer(
    help="Encoder, exemplars, index, thresholds and manifests in one hash-pinned file.", no_args_is_help=True
)

File = Annotated[Path, typer.Argument(help="The bundle.", show_default=False)]
Version = Annotated[str, typer.Option(help="The version that it must have.")]


@bundle.command()
def build(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("pointsman.bundle"),
    config: Config = None,
) -> None:
    """Write one file from the configured folders, the calibration, the difficulty model and the cascade."""
    from pointsman.host.bundles import build_bundle
    from pointsman.host.logs import configure_logs
    from pointsman.host.offline import open_workbench
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log)
    with open_workbench(settings) as bench:
        made = build_bundle(settings, bench, out)
    print(f"{out}: version {made.version}, {out.stat().st_size >> 10} KiB")


@bundle.command()
def verify(file: File, version: Version = "", config: Config = None) -> None:
    """Check every member against its hash, and that it can be served here; exit 1 when not."""
    from pointsman.errors import ArtifactError
    from pointsman.host.bundles import open_bundle
    from pointsman.host.offline import open_workbench
    from pointsman.settings import load

    settings = load(config)
    with open_workbench(settings) as bench:
        made = open_bundle(file, settings, bench.encoder_hash)
    if version and made.version != version:
        raise ArtifactError(f"{file}: version {made.version}, not {version}")
    print(f"{file}: version {made.version}: every member is the promised one")


@bundle.command()
def show(file: File, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print what a bundle holds; its members are verified."""
    from pointsman.artifacts.bundle_file import read_bundle_file

    found = read_bundle_file(file)
    members = {name: len(content) for name, content in found.members.items()}
    if as_json:
        print(json.dumps({"version": found.version, "facts": found.facts, "members": members}, indent=2))
        return
    print(f"version       {found.version}")
    for name, value in found.facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        print(f"{name:<13} {shown}")
    for name, size in members.items():
        print(f"  {name:<28} {size:>10,} bytes")


@bundle.command()
def activate(file: File, version: Version = "", config: Config = None) -> None:
    """Verify a bundle and put it where serving looks (paths.bundle); the one before it is kept."""
    from pointsman.errors import ArtifactError
    from pointsman.host.bundles import activate as put
    from pointsman.host.bundles import open_bundle
    from pointsman.host.offline import open_workbench
    from pointsman.settings import load

    settings = load(config)
    active = _active(settings.paths.bundle)
    with open_workbench(settings) as bench:
        made = open_bundle(file, settings, bench.encoder_hash)
    if version and made.version != version:
        raise ArtifactError(f"{file}: version {made.version}, not {version}")
    put(file, active)
    print(f"{active}: version {made.version}; a running server takes it within a second")


@bundle.command()
def rollback(config: Config = None) -> None:
    """Exchange the active bundle for the one before it."""
    from pointsman.artifacts.bundle_file import read_bundle_file
    from pointsman.host.bundles import roll_back
    from pointsman.settings import load

    active = _active(load(config).paths.bundle)
    roll_back(active)
    print(f"{active}: version {read_bundle_file(active).version}; a running server takes it within a second")


def _active(path: Path | None) -> Path:
    from pointsman.errors import ConfigError

    if path is None:
        raise ConfigError("paths.bundle is not set: it names the bundle that is served")
    return path
