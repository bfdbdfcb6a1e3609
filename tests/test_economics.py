"""The calculator, on the figures of the articles (docs/economics.md) and on what must always hold."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.errors import ConfigError
from pointsman.review.economics import Case, bill, price_of_request, sensitivity, verdict

A = Case(500_000, 5_000, 1_000, 3.0, 10.0, local_share=0.8, fixed=1_200)
D_GPT = Case(1_000_000, 10_000, 2_000, 1.75, 14.0, local_share=0.85, fixed=1_500)
D_DEEPSEEK = replace(
    D_GPT, input_price=0.28, cached_price=0.028, cached_share=0.73, output_price=0.42, fixed=1_430
)


def test_article_a_500_000_requests() -> None:
    found = bill(A)
    assert found.all_cloud == pytest.approx(12_500)
    assert found.hybrid == pytest.approx(3_700)
    assert found.saved == pytest.approx(0.704)
    # 80 % at 90/10 is the bound without local cost; with the same machines it is nearly reached.
    assert bill(replace(A, local_share=0.9)).saved == pytest.approx(0.804)


def test_article_b_three_tiers_blend_to_seven_thousandths() -> None:
    tiers = ((0.5, 200, 100, 0.5, 1.0), (0.3, 1_000, 500, 1.0, 4.0), (0.2, 5_000, 1_000, 4.0, 10.0))
    each = [share * price_of_request(Case(1, *rest)) for share, *rest in tiers]
    assert sum(each) == pytest.approx(0.007, abs=0.0001)


def test_article_c_two_thirds_of_the_bill() -> None:
    assert bill(replace(A, local_share=0.7, fixed=375)).saved == pytest.approx(0.67)


def test_article_d_dear_and_cheap_clouds() -> None:
    dear = bill(D_GPT)
    assert dear.all_cloud == pytest.approx(45_500)
    assert dear.hybrid == pytest.approx(8_325)
    cheap = bill(D_DEEPSEEK)
    assert cheap.all_cloud == pytest.approx(1_800, rel=0.01)
    assert cheap.hybrid == pytest.approx(1_700, rel=0.01)
    assert bill(replace(D_DEEPSEEK, fixed=1_500)).hybrid == pytest.approx(
        1_770, rel=0.01
    )  # with the same machines
    assert bill(replace(D_DEEPSEEK, fixed=2_330)).hybrid == pytest.approx(2_600, rel=0.01)
    assert verdict(D_DEEPSEEK).startswith("Do not do this for the money")
    assert verdict(replace(D_DEEPSEEK, fixed=2_330)).startswith("Do not do this: the local models cost")


def test_article_e_82_million_tokens_at_two_cents_a_million() -> None:
    assert bill(Case(1, 82e6, 0, 0.02, 0.0)).all_cloud == pytest.approx(1.64)  # not 164


AMOUNTS = st.floats(0.01, 1e6)
SHARES = st.floats(0.01, 0.99)
CASES = st.builds(
    Case, requests=AMOUNTS, input_tokens=AMOUNTS, output_tokens=AMOUNTS, input_price=AMOUNTS, output_price=AMOUNTS,
    cached_share=SHARES, local_share=SHARES, escalated_share=SHARES, fixed=AMOUNTS, cloud_success=SHARES,
    local_success=SHARES,
)  # fmt: skip


@given(CASES)
def test_at_the_break_even_both_cost_the_same(case: Case) -> None:
    found = bill(case)
    assert found.break_even is not None
    there = bill(replace(case, requests=found.break_even))
    assert there.hybrid == pytest.approx(there.all_cloud)


@given(CASES)
def test_without_local_requests_nothing_is_saved_and_more_escalations_never_help(case: Case) -> None:
    none = bill(replace(case, local_share=0.0))
    assert none.hybrid == pytest.approx(none.all_cloud + case.fixed)
    assert none.break_even is None
    more = bill(replace(case, escalated_share=1.0))
    assert more.hybrid >= bill(case).hybrid - 1e-6 * more.hybrid


@given(CASES)
def test_the_sensitivity_is_around_the_case(case: Case) -> None:
    saved = bill(case).saved
    for swing in sensitivity(case):
        assert min(swing.less, swing.more) - 1e-9 <= saved <= max(swing.less, swing.more) + 1e-9


def test_how_often_each_side_is_right_moves_what_a_successful_task_costs() -> None:
    case = replace(A, local_success=0.7, cloud_success=0.8)
    swings = {swing.input: swing for swing in sensitivity(case)}
    for name in ("local_success", "cloud_success"):
        less, more = (
            bill(replace(case, **{name: min(1.0, getattr(case, name) * factor)})).per_success
            for factor in (0.8, 1.2)
        )
        assert (swings[name].per_success_less, swings[name].per_success_more) == (less, more)
        assert less is not None
        assert more is not None
        assert less > more


def test_what_an_input_does_that_is_a_fifth_more_is_cautioned_of_too() -> None:
    dear = replace(A, fixed=8_500)  # saves 12 %; machines that are a fifth dearer make it a loss
    assert bill(dear).saved > 0.1
    assert bill(replace(dear, fixed=10_200)).saved < 0
    assert "turns it into a loss: requests, local share, fixed." in verdict(dear)
    worse = replace(A, local_success=0.45, local_share=0.9, fixed=4_500)
    assert bill(worse).saved > 0
    assert "that comes out right is dearer than on the cloud: requests, " in verdict(worse)
    assert verdict(worse).endswith("fixed, local success.")


def told(*options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pointsman", "economics", *" ".join(options).split(), "--json"], capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_command_reproduces_article_b_s_three_tiers() -> None:
    found = told(
        "--requests 1000000 --input-tokens 2000 --output-tokens 1000 --input-price 5 --output-price 20",
        "--local-share 0.5 --mid-share 0.3 --mid-input-price 0.5 --mid-output-price 2 --fixed 100",
    )  # $0.03, $0.003 and $0.0002 a request
    assert found["per_request"] == pytest.approx(0.007)


@pytest.mark.parametrize(("fixed", "hybrid"), [("1430", 1_700), ("2330", 2_600)])
def test_the_command_reproduces_article_d_s_cheap_cloud(fixed: str, hybrid: float) -> None:
    found = told(
        "--requests 1000000 --input-tokens 10000 --output-tokens 2000 --input-price 0.28 --output-price 0.42",
        f"--cached-price 0.028 --cached-share 0.73 --local-share 0.85 --fixed {fixed}",
    )
    assert found["all_cloud"] == pytest.approx(1_800, rel=0.01)
    assert found["hybrid"] == pytest.approx(hybrid, rel=0.01)
    assert found["verdict"].startswith("Do not do this")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--watts 350", "--watts: needs --kwh-price"),
        ("--kwh-price 0.3", "--kwh-price: needs --watts"),
        ("--mid-share 0.1", "--mid-share: needs --mid-input-price"),
        (
            "--mid-share 0.3 --mid-input-price 1",
            "mid_share: must leave room for local_share, which is 0.8 (got 0.3)",
        ),
    ],
)
def test_what_would_silently_cost_nothing_is_refused(options: str, message: str) -> None:
    shape = "--requests 1000 --input-tokens 100 --output-tokens 10 --input-price 3 --output-price 10"
    done = subprocess.run(
        [sys.executable, "-m", "pointsman", "economics", *shape.split(), *options.split()],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, message in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"local_share": 1.2}, "local_share: must be from 0 to 1 (got 1.2)"),
        ({"input_price": -1.0}, "input_price: must be 0 or more, and finite (got -1.0)"),
        ({"fixed": float("nan")}, "fixed: must be 0 or more, and finite (got nan)"),
        ({"requests": float("inf")}, "requests: must be 0 or more, and finite (got inf)"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        replace(A, **changed)
    assert str(raised.value) == message


def test_cheaper_and_worse_is_not_advised() -> None:
    worse = replace(A, local_success=0.2, local_share=0.9, fixed=9_000)
    assert bill(worse).saved > 0
    assert "dearer for each task that comes out right" in verdict(worse)


def test_the_command_says_what_to_do() -> None:
    command = [
        "economics",
        "--requests",
        "500000",
        "--input-tokens",
        "5000",
        "--output-tokens",
        "1000",
        "--input-price",
        "3",
        "--output-price",
        "10",
        "--fixed",
        "1200",
    ]

    def run(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pointsman", *command, *more], capture_output=True, text=True, timeout=60, check=True
        )  # fmt: skip
        return done.stdout

    assert run().startswith("It saves 70.4%, from 60,000 requests a month on.")
    assert json.loads(run("--json"))["hybrid"] == pytest.approx(3_700)


def test_a_stated_input_price_takes_the_listed_cached_one_with_it(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(
        "currency: EUR\nmodels: [{model: big, input: 2, cached: 0.2, output: 8, as_of: 2026-11-01}]\n"
    )

    def cached_price(*more: str) -> float | None:
        shape = [
            "--requests",
            "1000",
            "--input-tokens",
            "100",
            "--output-tokens",
            "10",
            "--model",
            "big",
            "--json",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pointsman", "economics", *shape, *more],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)["case"]["cached_price"]

    assert cached_price() == pytest.approx(0.2)
    assert cached_price("--input-price", "3") is None
    assert cached_price("--input-price", "3", "--cached-price", "0.3") == pytest.approx(0.3)
