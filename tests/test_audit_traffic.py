"""A log of calls: its forms, its groups, and what is worth doing about them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import REFUND, WEATHER, Site
from pointsman.catalog.files import read
from pointsman.catalog.schema import IntentFile
from pointsman.errors import CatalogError
from pointsman.review.call_log import Call, read_calls
from pointsman.review.candidates import Audit, audit, lines
from pointsman.review.clusters import clusters_of
from pointsman.training.examples import read_examples
from pointsman.values.price import LocalCosts, ModelPrice, PriceList

OTHERS = [
    "compose a haiku on rust", "why is the sky blue", "translate good morning into Welsh", "sum the first hundred primes",
    "who painted Guernica", "draft a resignation letter", "explain quicksort to a child", "best chess opening for black",
    "what rhymes with orange", "summarise the French Revolution", "convert 3 miles to metres", "name a good jazz album",
    "fix my CSS grid", "how do vaccines work", "plan a week in Lisbon", "is a hot dog a sandwich",
]  # fmt: skip


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "calls.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def chat(prompt: Any, answer: str = "It is done.", **usage: Any) -> dict[str, Any]:
    return {
        "request": {"model": "asked", "messages": [{"role": "system", "content": "Help."}, {"role": "user", "content": prompt}]},
        "response": {
            "model": "big", "created": 1_700_000_000, "usage": {"prompt_tokens": 50, "completion_tokens": 7} | usage,
            "choices": [{"message": {"role": "assistant", "content": answer}}],
        },
    }  # fmt: skip


# Forms.


def test_chat_completions_are_read(tmp_path: Path) -> None:
    (call,) = read_calls(
        written(tmp_path, chat("where is it", prompt_tokens_details={"cached_tokens": 20}))
    ).calls
    assert call == Call("where is it", "Help.", "It is done.", "big", 50, 20, 7, False, 1_700_000_000)


def test_other_forms_are_read(tmp_path: Path) -> None:
    batch = {
        "custom_id": "1",
        "body": chat("a")["request"],
        "response": {"status_code": 200, "body": chat("a")["response"]},
    }
    parts = chat([{"type": "text", "text": "two"}, {"type": "image_url"}, {"type": "text", "text": "parts"}])
    beside = {"messages": [{"role": "user", "content": "b"}], "response": chat("b")["response"]}
    said = {"messages": [{"role": "user", "content": "c"}], "answer": "d", "model": "m"}
    plain = {"prompt": "e f g", "completion": "h", "model": "m", "time": "2026-11-02T10:00:00Z"}
    calls = read_calls(written(tmp_path, batch, parts, beside, said, plain, {"prompt": "alone"})).calls
    assert [call.prompt for call in calls] == ["a", "two\nparts", "b", "c", "e f g", "alone"]
    assert [call.answer for call in calls] == ["It is done."] * 3 + ["d", "h", ""]
    assert [call.counted for call in calls] == [False, False, False, True, True, True]
    assert calls[4].prompt_tokens == pytest.approx(3.9)
    assert calls[4].time == 1_793_613_600


@pytest.mark.parametrize("part", [1, 1e3, 1e6, 1e9])
def test_times_are_read_in_seconds_and_their_parts(tmp_path: Path, part: float) -> None:
    line = {"prompt": "a", "time": int(1_793_613_600 * part)}
    assert read_calls(written(tmp_path, line)).calls[0].time == pytest.approx(1_793_613_600)


def test_bad_lines_are_named_and_left_out(tmp_path: Path) -> None:
    log = read_calls(
        written(
            tmp_path,
            *(chat("fine") for _ in range(8)),
            "{not json",
            [1],
            {"nothing": 1},
            {"prompt": "  "},
            {"messages": []},
            {"messages": [{"role": "system", "content": "x"}]},
            chat("x", completion_tokens=-1),
        )
    )
    assert (len(log.calls), log.bad) == (8, 7)
    assert [(problem.line, problem.field) for problem in log.problems] == [
        (9, ""), (10, ""), (11, ""), (12, "prompt"), (13, "request.messages"), (14, "request.messages"),
        (15, "completion_tokens"),
    ]  # fmt: skip
    assert "-1" in str(log.problems[-1])


@pytest.mark.parametrize("rows", [[], ["", " "], ["no", "no", {"prompt": "x"}]])
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(CatalogError):
        read_calls(written(tmp_path, *rows))
    with pytest.raises(CatalogError, match="cannot be read"):
        read_calls(tmp_path / "none.jsonl")


# Groups.


def test_rows_that_are_near_are_a_group_and_others_are_none() -> None:
    draw = np.random.default_rng(1)
    centres = np.eye(64)[:3]
    rows = np.concatenate([centres[[0] * 30 + [1] * 12 + [2] * 3], draw.normal(size=(200, 64))])
    rows[:45] += 0.05 * draw.normal(size=(45, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = clusters_of(rows, 8)
    assert [sorted(cluster.members.tolist()) for cluster in found] == [list(range(30)), list(range(30, 42))]
    assert clusters_of(rows[:5], 8) == []
    assert clusters_of(rows[45:], 8) == []


# The command, on a real encoder.

PRICES = """\
currency: EUR
models: [{model: big, input: 1000, output: 1000, as_of: 2026-11-01}]
"""


def run(site: Site, log: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pointsman", "audit-traffic", str(log), *arguments], cwd=site.root, capture_output=True,
        text=True, timeout=90, check=False, env=os.environ | {},
    )  # fmt: skip


def mixed(*, days: float = 30) -> list[dict[str, Any]]:
    prompts = [f"{text}{more}" for more in ("", " please", ", thanks") for text in (*REFUND, *WEATHER)]
    rows = [
        chat(prompt, "Refunded to jane@acme-corp.com." if i % 20 < 10 else "Rain.")
        for i, prompt in enumerate(prompts)
    ]
    rows += [chat(text, "word " * 60, completion_tokens=80) for text in OTHERS]
    for i, row in enumerate(rows):
        row["response"]["created"] += i * days * 86400 / len(rows)
    return rows


def test_a_log_is_audited_and_drafts_are_written(site: Site) -> None:
    site.fill()
    (site.root / "prices.yaml").write_text(PRICES)
    (site.root / "policy.yaml").write_text("actions: {email: redact}")
    log = written(site.root, *mixed(), "broken")
    done = run(site, log, "--drafts", "drafts")
    assert done.returncode == 0, done.stderr
    assert "**Worth it: they save EUR" in done.stdout
    assert "left out: " in done.stderr
    found = json.loads(run(site, log, "--json").stdout)
    assert found["calls"] == 76
    assert 0.3 < found["routine"] <= 62 / 76
    assert 1 <= found["chosen"] <= 3
    files = sorted((site.root / "drafts" / "intents").iterdir())
    assert len(files) == found["chosen"]
    for file in files:
        intent = read(file, IntentFile, file.name).value
        assert intent.target == "cloud"
        assert set(intent.exemplars) <= {row["request"]["messages"][1]["content"] for row in mixed()}
    for file in (site.root / "drafts" / "training").iterdir():
        examples = read_examples(file)
        assert examples
        assert "jane@" not in file.read_text()
    again = run(site, log, "--drafts", "drafts")
    assert again.returncode != 0
    assert "is there already; --force replaces it" in again.stderr
    (site.root / "policy.yaml").write_text("words: [{name: thing, words: [refund], action: redact}]")
    shown = json.loads(run(site, log, "--json").stdout)["candidates"]
    texts = " ".join(text for candidate in shown for text in (candidate["name"], *candidate["examples"]))
    assert "[THING_1]" in texts
    assert "refund" not in texts.casefold().replace("-", " ").replace("_", " ").split()


def test_traffic_without_routine_is_not_worth_it(site: Site) -> None:
    site.fill()
    done = run(site, written(site.root, *(chat(text) for text in OTHERS)))
    assert "**Not worth it: no group of prompts asks the same thing often enough.**" in done.stdout
    assert "What they cost is not known: no price of the model 'big'" in done.stdout


def test_a_model_that_has_no_price_is_refused(site: Site) -> None:
    (site.root / "prices.yaml").write_text(PRICES)
    done = run(site.fill(), written(site.root, chat("x")), "--model", "bigg")
    assert done.returncode == 2
    assert "--model: prices.yaml: no price of the model 'bigg' (priced: big)" in done.stderr


# What is worth it, of groups that are known.


class Exact:
    """A matcher that finds the group of a row's first coordinate."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def match(self, row: Any) -> Any:
        label = int(np.argmax(row[: len(self.names)])) if row.max() > 0.9 else -1
        name = self.names[label] if label >= 0 else ""
        return type("Found", (), {"accepted": label >= 0, "intent": name})()


def judged(
    *,
    output: int = 10,
    local: float = 0.0,
    days: float = 365.25 / 12,
    price: float = 1000.0,
    others: int = 10,
) -> Audit:
    draw = np.random.default_rng(1)
    rows = np.concatenate([np.eye(64)[[0] * 20 + [1] * 10], draw.normal(size=(others, 64))])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    calls = [
        Call(
            f"prompt number {i}",
            "",
            "yes",
            "big",
            90.0,
            0.0,
            float(output),
            False,
            i * days * 86400 / (len(rows) - 1),
        )
        for i in range(len(rows))
    ]
    prices = PriceList("EUR", {"big": ModelPrice(price, price, price)} if price else {}, LocalCosts(local))
    return audit(calls, rows, rows, prices, lambda catalog: Exact([i.name for i in catalog.intents]))  # type: ignore[arg-type, return-value]


def test_savings_are_those_of_what_is_found_in_a_month() -> None:
    found = judged()
    assert [(c.calls, c.found, c.wrong, c.risk) for c in found.candidates] == [
        (20, 1, 0, "low"),
        (10, 1, 0, "low"),
    ]
    assert found.cost == pytest.approx(40 * 0.1)
    assert (
        found.verdict
        == "Worth it: they save EUR 3.00 a month (75% of the bill); prices.yaml states no local costs."
    )
    assert "less EUR 1.00 for local machines" in judged(local=1.0).verdict


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"local": 4.0}, "Not worth it: they save EUR 3.00 a month, and the local machines cost 4.00."),
        ({"output": 500}, "Not worth it yet: every group has long answers"),
        ({"others": 290}, "Not worth it for the money: the first candidates are 9.4% of the bill."),
        ({"days": 0.5}, "They save 75% of the bill, less what local machines cost; the log does not say"),
        ({"price": 0.0}, "What it saves is not known, for want of prices."),
    ],
)
def test_what_is_not_worth_it_is_said(options: dict[str, float], verdict: str) -> None:
    found = judged(**options)  # type: ignore[arg-type]
    assert found.verdict.startswith(verdict)
    assert f"**{found.verdict}**" in "\n".join(lines(found))


@pytest.mark.parametrize(
    ("options", "marks", "said"),
    [
        ({"output": 200}, (True, True), ["; over the mark of 70%.", "; over the mark of 60%."]),
        (
            {"others": 20},
            (False, False),
            ["not over the mark of 70%: most of", "not over the mark of 60%: long prompts cost too"],
        ),
    ],
)
def test_the_marks_of_a_good_candidate_are_told(
    options: dict[str, int], marks: tuple[bool, bool], said: list[str]
) -> None:
    found = judged(**options)  # type: ignore[arg-type]
    assert found.marks == marks
    page = "\n".join(lines(found))
    assert all(part in page for part in said)
