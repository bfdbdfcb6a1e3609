"""`pointsman base merge | quantize`: base models as files."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman.cli.options import Config

base = typer.Typer(help="Base models as files.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="GGUF file to write; must not exist.")]


@base.command()
def merge(
    source: Annotated[Path, typer.Argument(help="GGUF base.", show_default=False)],
    adapter: Annotated[Path, typer.Argument(help="GGUF adapter over it.", show_default=False)],
    out: Out,
    scale: Annotated[float, typer.Option(help="Strength of the adapter.")] = 1.0,
) -> None:
    """Merge an adapter into its base; the result is F16, ready to be quantised."""
    from pointsman.errors import ConfigError
    from pointsman.training.export import write_unquantised

    if not 0 < scale <= 16:
        raise ConfigError(f"--scale: must be above 0 and at most 16 (got {scale})")
    _check_new(out)
    _check_there(source)
    _check_there(adapter)
    write_unquantised(source, out, adapter, scale)
    _say(out)


@base.command()
def quantize(
    source: Annotated[Path, typer.Argument(help="GGUF model, F16 or F32.", show_default=False)],
    out: Out,
    kind: Annotated[str, typer.Option("--type", help="Q4_K_M, Q5_K_M or another of llama.cpp's.")] = "Q4_K_M",
    binary: Annotated[
        Path | None,
        typer.Option(help="llama-quantize; else the one on the path or beside engine.llama_server."),
    ] = None,
    config: Config = None,
) -> None:
    """Quantise a model with llama.cpp's own tool."""
    from pointsman.settings import load
    from pointsman.training.quantise import find_tool, quantise

    _check_new(out)
    _check_there(source)
    quantise(find_tool(binary, load(config).engine.llama_server), source, out, kind)
    _say(out)


def _check_new(out: Path) -> None:
    from pointsman.errors import ConfigError

    if out.exists():
        raise ConfigError(f"--out {out}: exists already")


def _check_there(path: Path) -> None:
    from pointsman.errors import ConfigError

    if not path.is_file():
        raise ConfigError(f"{path}: no such file")


def _say(out: Path) -> None:
    from pointsman.artifacts.verdict import sha256_of

    print(f"written: {out}, {out.stat().st_size >> 20} MiB, sha256 {sha256_of(out)}")
