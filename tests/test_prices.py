"""The price list: what it states, what is refused with its line, and how a server takes changes of it up."""

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pointsman.catalog.prices_file import read_prices
from pointsman.errors import CatalogError, ConfigError
from pointsman.host.price_source import PriceSource
from pointsman.values.events import Cost, Usage
from pointsman.values.price import LocalCosts, ModelPrice, PriceList

GOOD = """\
currency: EUR
models:
  - {model: big, input: 2, cached: 0.5, output: 10, as_of: 2026-11-01}
  - {model: small, input: 0.2, output: 0.8, as_of: 2026-10-01}
local: {per_month: 100, watts: 200, per_kwh: 0.3}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text)
    return path


def test_the_file_is_read(tmp_path: Path) -> None:
    prices = read_prices(written(tmp_path, GOOD))
    assert prices.models["big"] == ModelPrice(2.0, 0.5, 10.0, date(2026, 11, 1))
    assert prices.models["small"].cached == 0.2
    assert prices.local == LocalCosts(100, 200, 0.3)
    assert prices.local.monthly == pytest.approx(100 + 0.2 * 730.5 * 0.3)
    assert prices.cost("big", Usage(1000, 500, 400)) == Cost(
        "EUR", pytest.approx((600 * 2 + 400 * 0.5 + 500 * 10) / 1e6)
    )
    assert prices.cost("unheard", Usage(1, 1, 0)) is None
    assert read_prices(tmp_path / "none.yaml") == PriceList()


@pytest.mark.parametrize(
    ("before", "after", "field", "value"),
    [
        ("input: 2,", "input: -2,", "models.0.input", "-2"),
        ("output: 10", "output: .inf", "models.0.output", "inf"),
        ("input: 2,", "input: two,", "models.0.input", "two"),
        (" output: 10,", "", "models.0.output", ""),
        ("as_of: 2026-11-01", "as_of: 2999-01-01", "models.0.as_of", "2999"),
        (", as_of: 2026-11-01", "", "models.0.as_of", ""),
        ("model: small", "model: big", "models.1.model", "big"),
        ("cached: 0.5", "cache: 0.5", "models.0.cache", ""),
        ("EUR", "euro", "currency", "euro"),
        (", per_kwh: 0.3", "", "local.watts", "200"),
    ],
)
def test_bad_entries_are_refused_with_their_place(
    tmp_path: Path, before: str, after: str, field: str, value: str
) -> None:
    assert before in GOOD
    with pytest.raises(CatalogError) as raised:
        read_prices(written(tmp_path, GOOD.replace(before, after)))
    (problem,) = raised.value.problems
    line = next(i for i, text in enumerate(GOOD.splitlines(), 1) if before in text)
    assert (problem.file, problem.line, problem.field) == ("prices.yaml", line, field)
    assert value in problem.value


def test_today_is_not_the_future_wherever_it_is(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    here = (now + timedelta(hours=13)).date()
    assert read_prices(written(tmp_path, GOOD.replace("2026-11-01", f"{here}"))).models["big"].as_of == here
    with pytest.raises(CatalogError, match="is in the future"):
        read_prices(written(tmp_path, GOOD.replace("2026-11-01", f"{(now + timedelta(days=2)).date()}")))


def test_a_server_warns_of_a_model_without_a_price_and_keeps_prices_that_break(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    with capture_logs() as logs:
        source = PriceSource(path, ["big", "bigg"])
        path.write_text(GOOD.replace("input: 2,", "input: -2,"))
        source.look()
        assert source.prices.models["big"].input == 2
        path.write_text(GOOD.replace("input: 2,", "input: 33,"))
        source.look()
        path.unlink()
        source.look()
    assert source.prices.models["big"].input == 33
    assert [entry["event"] for entry in logs] == [
        "prices.missing",
        "prices.refused",
        "prices.missing",
        "prices.loaded",
        "prices.gone",
    ]
    assert "no price of the model 'bigg' (priced: big, small)" in logs[0]["why"]
    with pytest.raises(ConfigError, match=r"paths\.prices: prices\.yaml:1.*currency"):
        PriceSource(written(tmp_path, "models: []"), [])


def test_commands_name_a_model_that_has_no_price(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    for folder in ("intents", "specialists"):
        (tmp_path / folder).mkdir()

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pointsman", *arguments], cwd=tmp_path, capture_output=True, text=True,
            timeout=90, check=False, env=os.environ | {"POINTSMAN_CLOUD__MODEL": "gpt-unheard"},
        )  # fmt: skip

    checked = run("check")
    assert checked.returncode == 1
    assert "prices.yaml: no price of the model 'gpt-unheard' (priced: big, small)" in checked.stderr
    shape = ("economics", "--requests", "1000000", "--input-tokens", "1000", "--output-tokens", "100")
    refused = run(*shape, "--model", "gpt-unheard")
    assert refused.returncode == 2
    assert "--model: prices.yaml: no price of the model 'gpt-unheard'" in refused.stderr
    case = json.loads(run(*shape, "--model", "big", "--fixed", "7", "--json").stdout)["case"]
    assert (case["input_price"], case["cached_price"], case["output_price"]) == (2, 0.5, 10)
    assert (case["fixed"], case["watts"], case["kwh_price"]) == (7, 200, 0.3)
    assert "--output-price: needed, or --model" in run(*shape, "--input-price", "1").stderr
