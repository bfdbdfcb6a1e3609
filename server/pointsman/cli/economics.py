"""`pointsman economics`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pointsman.cli.options import Config
from pointsman.errors import ConfigError


def economics(
    requests: Annotated[float, typer.Option(min=0, help="A month.")],
    input_tokens: Annotated[float, typer.Option(min=0, help="Of a request.")],
    output_tokens: Annotated[float, typer.Option(min=0, help="Of its answer.")],
    model: Annotated[
        str | None,
        typer.Option(help="Whose prices, and local costs, prices.yaml states.", show_default=False),
    ] = None,
    input_price: Annotated[
        float | None, typer.Option(min=0, help="Per million tokens; in place of --model.")
    ] = None,
    output_price: Annotated[float | None, typer.Option(min=0, help="The same.")] = None,
    cached_price: Annotated[float | None, typer.Option(min=0, help="The same; else as fresh ones.")] = None,
    cached_share: Annotated[float, typer.Option(min=0, max=1, help="Of the input tokens.")] = 0.0,
    local_share: Annotated[float, typer.Option(min=0, max=1, help="Of requests.")] = 0.8,
    escalated_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of local answers; paid as well.")
    ] = 0.0,
    mid_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of requests, to another model of the cloud.")
    ] = 0.0,
    mid_input_price: Annotated[float, typer.Option(min=0, help="Of that one, per million tokens.")] = 0.0,
    mid_output_price: Annotated[float, typer.Option(min=0, help="The same.")] = 0.0,
    fixed: Annotated[float | None, typer.Option(min=0, help="Local cost a month: machines, people.")] = None,
    watts: Annotated[float | None, typer.Option(min=0, help="Power of the local machines.")] = None,
    kwh_price: Annotated[float | None, typer.Option(min=0)] = None,
    cloud_success: Annotated[
        float, typer.Option(min=0, max=1, help="Share of its answers that are right.")
    ] = 1.0,
    local_success: Annotated[float, typer.Option(min=0, max=1, help="The same of the local model.")] = 1.0,
    mid_success: Annotated[float, typer.Option(min=0, max=1, help="The same of the mid tier.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Config = None,
) -> None:
    """Say what a month costs with the cloud alone and with local models before it, and whether to do it."""
    from pointsman.review.economics import Case, bill, sensitivity, verdict

    stated = {
        "input_price": input_price,
        "output_price": output_price,
        "cached_price": cached_price,
        "fixed": fixed,
        "watts": watts,
        "kwh_price": kwh_price,
    }
    prices = _listed(model, config) if model else {}
    if input_price is not None:
        prices.pop("cached_price", None)  # the listed one goes with the listed input price
    prices |= {name: value for name, value in stated.items() if value is not None}
    for name in ("input_price", "output_price"):
        if name not in prices:
            raise ConfigError(f"--{name.replace('_', '-')}: needed, or --model with a price in prices.yaml")
    if prices.get("watts") and prices.get("kwh_price") is None:
        raise ConfigError(f"--watts: needs --kwh-price beside it, or power costs nothing (got {watts})")
    if prices.get("kwh_price") and prices.get("watts") is None:
        raise ConfigError(f"--kwh-price: needs --watts beside it, or power costs nothing (got {kwh_price})")
    if mid_share and not mid_input_price + mid_output_price:
        raise ConfigError(
            f"--mid-share: needs --mid-input-price and --mid-output-price beside it (got {mid_share})"
        )
    case = Case(
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_share=cached_share,
        local_share=local_share,
        escalated_share=escalated_share,
        cloud_success=cloud_success,
        local_success=local_success,
        mid_share=mid_share,
        mid_input_price=mid_input_price,
        mid_output_price=mid_output_price,
        mid_success=mid_success,
        **prices,
    )
    found = bill(case)
    swings = list(sensitivity(case))
    if as_json:
        derived = {
            "per_request": found.per_request,
            "saved": found.saved,
            "sensitivity": [asdict(swing) for swing in swings],
            "verdict": verdict(case),
        }
        print(json.dumps({"case": asdict(case)} | asdict(found) | derived, indent=2))
        return
    print(verdict(case), end="\n\n")
    lines = {
        "per successful task": found.per_success,
        "the same, cloud alone": found.per_success_all_cloud,
        "per request": found.per_request,
        "a month": found.hybrid,
        "of that local": found.local,
        "a month, cloud alone": found.all_cloud,
        "break-even, requests a month": found.break_even,
    }
    for name, value in lines.items():
        print(f"{name:30} {_amount(value):>16}")
    print(f"{'saved':30} {found.saved:>16.1%}\n\nwhen an input is a fifth less, and a fifth more:")
    print(f"{'':30} {'saved':>16} {'':>10} {'per success':>14}")
    for swing in swings:
        saved = f"{swing.less:>16.1%} {swing.more:>10.1%}"
        each = f"{_amount(swing.per_success_less):>14} {_amount(swing.per_success_more):>12}"
        print(f"{swing.input.replace('_', ' '):30} {saved} {each}")


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}" if value < 1 else f"{value:,.2f}"


def _listed(model: str, config: Path | None) -> dict[str, float]:
    from pointsman.catalog.prices_file import read_prices
    from pointsman.settings import load

    path = load(config).paths.prices
    listed = read_prices(path)
    price, local = listed.models.get(model), listed.local
    if price is None:
        raise ConfigError(f"--model: {path}: {listed.missing(model)}")
    return {
        "input_price": price.input,
        "output_price": price.output,
        "cached_price": price.cached,
        "fixed": local.per_month,
        "watts": local.watts,
        "kwh_price": local.per_kwh,
    }
