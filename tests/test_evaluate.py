"""Figures of labelled traffic, checked by hand, and the command that prints them."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from builders import make_intent
from harness import Site, write_intent, write_prices
from pointsman.cli.evaluate import evaluate as evaluate_command
from pointsman.cli.evaluate import explain as explain_command
from pointsman.host.bundles import build_bundle
from pointsman.host.offline import load_catalog, open_workbench
from pointsman.review import metrics
from pointsman.review.evaluate import Evaluation, evaluate, plain
from pointsman.review.html import page
from pointsman.review.metrics import NONE, Outcomes, Share
from pointsman.review.price import Prices, price, prices_of, tokens_of
from pointsman.review.traffic import Labelled
from pointsman.settings import load
from pointsman.values.catalog import CLOUD, MID, Catalog, Mid
from pointsman.values.decision import Evidence, Hardness
from pointsman.values.price import ModelPrice, PriceList

CATALOG = Catalog(
    intents=(
        make_intent("refund", "support"),
        make_intent("cancel", "support"),
        make_intent("weather", "slots"),
        make_intent("essay", CLOUD),
    )
)
THRESHOLD = 0.5


@dataclass(frozen=True)
class Scripted:
    """A matcher that says of prompt i what it was told: (intent, score, confidence)."""

    said: Sequence[tuple[str, float, float]]
    catalog: Catalog = CATALOG
    size: int = 8
    hard: tuple[str, ...] = ()

    def judge(self, row: np.ndarray, text: str) -> Evidence:
        intent, score, confidence = self.said[int(row[0])]
        hardness = Hardness(0.5, 0.1) if text in self.hard else None
        target = next(i.target for i in self.catalog.intents if i.name == intent)
        return Evidence(
            intent=intent,
            target=target,
            score=score,
            threshold=THRESHOLD,
            confidence=confidence,
            hardness=hardness,
        )


def judged(*lines: tuple[str | None, str, float, float], prices: Prices | None = None) -> Evaluation:
    """Evaluate lines of (label, best intent, score, confidence)."""
    traffic = [Labelled(f"prompt {i}", line[0], True, i + 1) for i, line in enumerate(lines)]
    rows = np.arange(len(lines), dtype=np.float32)[:, None]
    return evaluate(traffic, rows, Scripted([line[1:] for line in lines]), "v1", prices)


MIXED = (
    ("refund", "refund", 0.9, 0.95),
    ("refund", "refund", 0.4, 0.45),  # right, but refused
    ("refund", "cancel", 0.8, 0.85),  # another intent of the same specialist
    ("weather", "refund", 0.7, 0.75),  # a wrong specialist
    ("essay", "essay", 0.9, 0.9),  # the cloud, as it should be
    (None, "essay", 0.6, 0.55),  # out of scope, and to the cloud all the same
    (None, "weather", 0.6, 0.65),  # out of scope, to a specialist
    (None, "weather", 0.2, 0.05),
)


def test_shares_of_a_mixed_file_are_those_counted_by_hand() -> None:
    found = judged(*MIXED)
    quality, routing = found.quality, found.routing
    assert (found.prompts, found.out_of_scope) == (8, 3)
    assert quality.accuracy == Share(3, 5)
    assert quality.joint_accuracy == Share(3, 8)
    assert quality.in_scope_refused == Share(1, 5)
    assert quality.oos_recall == Share(1, 3)
    assert routing.local == Share(4, 8)
    assert routing.wrong_specialist == Share(2, 8)
    assert routing.right_when_local == Share(2, 4)
    assert routing.not_local == Share(1, 4)
    assert routing.oos_not_local == Share(2, 3)


def test_auroc_is_the_share_of_pairs_in_the_right_order_and_ties_count_half() -> None:
    found = judged(*MIXED)
    inside = [line[2] for line in MIXED if line[0] is not None]
    outside = [line[2] for line in MIXED if line[0] is None]
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert found.quality.oos_auroc == pytest.approx(sum(pairs) / len(pairs))
    assert found.quality.oos_auroc_confidence == pytest.approx(13 / 15)


def test_figures_of_an_intent_count_refusals_as_misses_and_out_of_scope_prompts_as_mistakes() -> None:
    by_name = {figures.name: figures for figures in judged(*MIXED).per_intent}
    assert list(by_name) == ["refund", "cancel", "weather", "essay", None]
    refund, weather, nothing = by_name["refund"], by_name["weather"], by_name[None]
    assert (refund.precision, refund.recall, refund.support) == (0.5, pytest.approx(1 / 3), 3)
    assert refund.f1 == pytest.approx(0.4)
    assert (weather.precision, weather.recall, weather.f1) == (0, 0, 0)
    assert (by_name["cancel"].recall, by_name["cancel"].support) == (None, 0)
    assert (nothing.precision, nothing.recall) == (0.5, pytest.approx(1 / 3))


def test_confused_pairs_name_who_answers_and_show_the_surest_texts_first() -> None:
    lines = [("refund", "cancel", 0.8, c) for c in (0.1, 0.9, 0.5, 0.7)]
    found = judged(*lines, *MIXED[3:]).confusions
    first = found[0]
    assert (first.expected, first.chosen, first.count, first.wrong_specialist) == (
        "refund", "cancel", 4, False,
    )  # fmt: skip
    assert first.examples == ("prompt 1", "prompt 3", "prompt 2")
    wrong = {(pair.expected, pair.chosen): (pair.chosen_target, pair.wrong_specialist) for pair in found[1:]}
    assert wrong == {
        ("weather", "refund"): ("support", True),
        (None, "essay"): (CLOUD, False),
        (None, "weather"): ("slots", True),
    }


def test_a_refused_prompt_is_confused_with_nothing_and_reaches_no_wrong_specialist() -> None:
    (pair,) = judged(("refund", "weather", 0.4, 0.2)).confusions
    assert (pair.chosen, pair.chosen_target, pair.wrong_specialist) == (None, CLOUD, False)


def test_the_risk_curve_accepts_the_surest_first() -> None:
    curve = judged(*MIXED).risk_coverage
    by_coverage = {point.coverage: point for point in curve}
    assert by_coverage[0.25].risk == 0
    assert by_coverage[0.375].risk == pytest.approx(1 / 3)  # refund for cancel, the same specialist
    assert by_coverage[0.375].wrong_specialist == 0
    assert by_coverage[0.5].wrong_specialist == pytest.approx(1 / 8)
    assert curve[-1].coverage == 1
    assert curve[-1].risk == pytest.approx(5 / 8)


def test_prompts_of_equal_confidence_are_accepted_together() -> None:
    curve = judged(*[("refund", "refund", 0.9, 0.5)] * 7, ("refund", "cancel", 0.9, 0.9)).risk_coverage
    assert [(point.coverage, point.confidence) for point in curve] == [(0.125, 0.9), (1.0, 0.5)]


def test_confidence_is_judged_by_the_best_intent_and_out_of_scope_is_always_wrong() -> None:
    found = judged(("refund", "refund", 0.9, 0.75), (None, "refund", 0.9, 0.75)).reliability
    (only,) = found.bins
    assert (only.low, only.high, only.count, only.confidence, only.right) == (0.7, 0.8, 2, 0.75, 0.5)
    assert found.brier == pytest.approx((0.25**2 + 0.75**2) / 2)
    assert found.ece == pytest.approx((0.25 + 0.75) / 2)


@given(count=st.integers(0, 300), more=st.integers(0, 300))
def test_an_interval_holds_the_share_and_narrows_with_prompts(count: int, more: int) -> None:
    share = Share(count, count + more or 1)
    low, high = share.interval
    assert -1e-9 <= low <= share.value + 1e-9
    assert share.value - 1e-9 <= high <= 1 + 1e-9
    wide = share.interval
    narrow = Share(share.count * 4, share.of * 4).interval
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_wilson_s_interval_is_the_published_one() -> None:
    low, high = Share(81, 263).interval  # Newcombe, Statistics in Medicine 17 (1998), table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@given(
    st.lists(
        st.tuples(st.sampled_from([None, "refund", "cancel", "weather", "essay"]),
                  st.sampled_from(["refund", "cancel", "weather", "essay"]),
                  st.floats(0, 1), st.floats(0, 1)),
        min_size=1, max_size=40,
    )
)  # fmt: skip
def test_any_file_is_evaluated_and_its_figures_agree_with_each_other(
    lines: list[tuple[str | None, str, float, float]],
) -> None:
    found = judged(*lines)
    json.dumps(plain(found), allow_nan=False)
    asked = sum(figures.support for figures in found.per_intent)
    wrong = sum(pair.count for pair in found.confusions if pair.wrong_specialist)
    assert asked == found.prompts
    assert found.routing.wrong_specialist.count == wrong
    assert found.quality.joint_accuracy.count == found.prompts - sum(p.count for p in found.confusions)
    assert (found.quality.accuracy is None) == (found.out_of_scope == found.prompts)
    assert (found.quality.oos_auroc is None) == (found.out_of_scope in {0, found.prompts})
    coverage = [point.coverage for point in found.risk_coverage]
    assert coverage == sorted(set(coverage))


# What does not exist


def test_without_out_of_scope_lines_their_figures_are_absent_and_the_reason_is_given() -> None:
    found = judged(*MIXED[:5])
    assert found.quality.oos_auroc is None
    assert found.quality.oos_recall is None
    assert found.routing.oos_not_local is None
    assert any("OOS AUROC" in note and "No line is out of scope" in note for note in found.notes)


def test_a_file_of_out_of_scope_lines_alone_has_no_accuracy_and_says_why() -> None:
    found = judged(*MIXED[5:])
    assert found.quality.accuracy is None
    assert found.quality.oos_auroc is None
    assert found.quality.oos_recall == Share(1, 3)
    assert any(note.startswith("Every line is out of scope") for note in found.notes)


def test_a_file_of_one_intent_is_measured_and_says_what_its_figures_lack() -> None:
    found = judged(*MIXED[:3])
    assert found.quality.accuracy == Share(2, 3)
    assert any("Every line asks for one intent, 'refund'" in note for note in found.notes)
    assert any("3 of 4 intents have no line here" in note for note in found.notes)


def test_nothing_answered_locally_leaves_no_share_of_it() -> None:
    found = judged(("refund", "refund", 0.1, 0.1))
    assert found.routing.local == Share(0, 1)
    assert found.routing.right_when_local is None


def test_a_prompt_too_hard_for_its_specialist_is_not_local_and_no_specialist_is_wrong() -> None:
    traffic = [Labelled("easy", "refund", True), Labelled("hard", "weather", True)]
    matcher = Scripted([("refund", 0.9, 0.9), ("refund", 0.9, 0.9)], hard=("hard",))
    found = evaluate(traffic, np.array([[0.0], [1.0]], np.float32), matcher, "v1")
    assert found.routing.local == Share(1, 2)
    assert found.routing.wrong_specialist == Share(0, 2)
    assert found.routing.not_local == Share(1, 2)
    assert any("too hard for it: 1." in note for note in found.notes)


def test_the_middle_tier_is_no_specialist() -> None:
    catalog = Catalog(intents=(make_intent("refund", "support"), make_intent("summary", MID)))
    matcher = Scripted([("summary", 0.9, 0.9), ("refund", 0.9, 0.9)], catalog)
    traffic = [Labelled("a", "refund", True), Labelled("b", "summary", True)]
    found = evaluate(traffic, np.array([[0.0], [1.0]], np.float32), matcher, "v1")
    assert found.routing.local == Share(1, 2)
    assert found.routing.wrong_specialist == Share(1, 2)
    assert [pair.wrong_specialist for pair in found.confusions] == [False, True]


def test_a_specialist_on_the_middle_tier_is_counted_as_the_specialist_that_it_is() -> None:
    catalog = Catalog(intents=(make_intent("refund", "support"), make_intent("summary", MID)))
    traffic = [Labelled("a", "refund", True), Labelled("b", None, True), Labelled("c", "refund", True)]
    rows = np.array([[0.0], [1.0], [2.0]], np.float32)
    for mid, local, wrong in (
        (Mid(specialist="big"), 3, 2),
        (Mid(specialist="support"), 3, 1),  # the same one answers
        (Mid(model="m"), 1, 0),
    ):
        matcher = Scripted([("refund", 0.9, 0.9), *[("summary", 0.9, 0.9)] * 2], catalog)
        found = evaluate(traffic, rows, matcher, "v1", mid=mid)
        assert found.routing.local == Share(local, 3)
        assert found.routing.wrong_specialist == Share(wrong, 3)
        assert any("middle tier" in note for note in found.notes) == (mid.model is not None)


def test_lines_that_are_exemplars_are_named_first() -> None:
    traffic = [Labelled("Money  back", "refund", True), Labelled("hello", "refund", True)]
    matcher = Scripted([("refund", 0.9, 0.9)] * 2)
    found = evaluate(traffic, np.array([[0.0], [1.0]], np.float32), matcher, "v1")
    assert found.notes[0].startswith("WARNING: 1 of 2 lines are exemplars themselves")
    assert not any("WARNING" in note for note in judged(*MIXED).notes)


# Price


def test_the_price_counts_the_prompts_that_go_to_the_cloud_with_their_own_lengths() -> None:
    prices = Prices("EUR", input_price=2.0, output_price=10.0, input_tokens=None, output_tokens=100)
    found = price(["one two three four", "x" * 400], np.array([True, False]), prices)
    short, long = 4 * 1.3 * 2e-6 + 1e-3, 100 * 2e-6 + 1e-3
    assert found.all_cloud == pytest.approx(1000 * (short + long) / 2)
    assert found.as_routed == pytest.approx(1000 * long / 2)
    assert found.saved == pytest.approx(short / (short + long))
    assert found.counted
    assert "approximated from the texts" in found.sentence


def test_stated_token_counts_are_taken_as_they_are() -> None:
    prices = Prices("USD", 1.0, 4.0, input_tokens=500, output_tokens=50)
    found = judged(*MIXED, prices=prices).price
    assert found is not None
    assert found.all_cloud == pytest.approx(0.7)
    assert found.as_routed == pytest.approx(0.35)
    assert not found.counted


def test_free_prices_save_nothing() -> None:
    found = price(["a"], np.array([True]), Prices("USD", 0, 0))
    assert found.saved == 0


def test_without_prices_the_price_is_left_out_and_a_note_says_so() -> None:
    found = judged(*MIXED)
    assert found.price is None
    assert any("prices.yaml" in note for note in found.notes)
    listed = PriceList("EUR", {"big": ModelPrice(1.0, 1.0, 2.0)})
    assert prices_of(listed, "other", None, 256) is None
    assert prices_of(listed, "big", 9, 256) == Prices("EUR", 1, 2, 9, 256)


def test_tokens_of_a_language_without_spaces_are_counted_by_characters() -> None:
    assert tokens_of("ขอเงินคืนสำหรับคำสั่งซื้อของฉัน") > 5
    assert tokens_of("please refund my order") == pytest.approx(5.5, abs=0.5)


# The page


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order; collects text and addresses."""

    void = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in {"src", "href", "xlink:href", "action"}]
        self.ids += [v or "" for k, v in attrs if k == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(html: str) -> Balanced:
    parser = Balanced()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_needs_nothing_from_outside_and_its_ids_are_its_own() -> None:
    html = page(judged(*MIXED, prices=Prices("USD", 1, 2)), data="traffic.jsonl", encoder="MiniLM (ab12)")
    parser = read_page(html)
    assert html.count("<svg") == 3
    assert all(address.startswith("#") for address in parser.addresses)
    assert {address[1:] for address in parser.addresses} <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))
    assert not re.search(r"<script|@import|url\((?!#)", html)
    text = " ".join(parser.text)
    for part in (
        "60.0\N{NO-BREAK SPACE}%",
        "3 of 5",
        "prompt 3",
        "1,000 prompts like these",
        "traffic.jsonl",
    ):
        assert part in text


def test_equal_evaluations_make_equal_pages() -> None:
    first, second = (page(judged(*MIXED), data="d", encoder="e") for _ in range(2))
    assert first == second


def test_texts_of_traffic_are_data_on_the_page_never_markup() -> None:
    evil = "<script>alert(1)</script> & {{ 7 * 7 }} </td>"
    long = "ขอเงินคืน " * 100_000
    traffic = [Labelled(evil, "weather", True), Labelled(long, "refund", True)]
    matcher = Scripted([("refund", 0.9, 0.9), ("cancel", 0.9, 0.8)])
    found = evaluate(traffic, np.array([[0.0], [1.0]], np.float32), matcher, "v1")
    html = page(found, data="d", encoder="e")
    assert "<script" not in html
    assert evil in "".join(read_page(html).text)
    assert len(html) < 200_000


@pytest.mark.parametrize("lines", [MIXED[:1], MIXED[5:], [("refund", "refund", 0.1, 0.0)]])
def test_a_page_of_few_figures_is_still_a_page(lines: list[tuple[str | None, str, float, float]]) -> None:
    read_page(page(judged(*lines), data="d", encoder="e"))


# The command

Run = Callable[..., Result]


@pytest.fixture
def run(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`pointsman eval` on the site, with the real encoder; prompts are pairs of text and label."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("eval")(evaluate_command)
    for key, path in (("INTENTS", site.intents), ("SPECIALISTS", site.specialists)):
        monkeypatch.setenv(f"POINTSMAN_PATHS__{key}", str(path))
    monkeypatch.setenv("POINTSMAN_PATHS__CALIBRATION", str(tmp_path / "calibration.json"))

    def go(content: str | Sequence[tuple[str, str | None]], *arguments: str) -> Result:
        if not isinstance(content, str):
            content = "\n".join(json.dumps({"text": text, "intent": intent}) for text, intent in content)
        data = tmp_path / "traffic.jsonl"
        data.write_text(content, encoding="utf-8")
        return CliRunner().invoke(app, ["--data", str(data), *arguments])

    return go


GOOD = [
    ("can I get a refund for my broken lamp", "refund"),
    ("I want back the money I paid for these shoes", "refund"),
    ("will there be rain in Madrid on Sunday", "weather"),
    ("how cold is it going to be tomorrow", "weather"),
    ("prove that there are infinitely many primes", None),
]


def test_eval_prints_a_table_and_writes_json_and_a_page(site: Site, run: Run, tmp_path: Path) -> None:
    site.fill()
    result = run(GOOD, "--json-file", str(tmp_path / "e.json"), "--html", str(tmp_path / "e.html"))
    assert result.exit_code == 0, result.output
    assert "2 intents, 20 exemplars; 5 prompts" in result.stdout
    assert re.search(r"accuracy +100\.0\s% +51\.0–100\.0 +4 of 4", result.stdout)
    figures = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert figures["quality"]["accuracy"]["value"] == 1
    assert figures["quality"]["oos_auroc"] == 1
    assert figures["price"] is None
    assert "judged" not in figures
    read_page((tmp_path / "e.html").read_text(encoding="utf-8"))


def test_eval_prints_json_alone_where_that_is_asked_for(site: Site, run: Run) -> None:
    site.fill()
    assert json.loads(run(GOOD, "--json").stdout)["prompts"] == 5


def test_eval_prices_by_the_price_list(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_CLOUD__MODEL", "big")
    monkeypatch.setenv("POINTSMAN_PATHS__PRICES", str(write_prices(site.root, big=(2.0, 2.0, 8.0))))
    site.fill()
    found = json.loads(run(GOOD, "--json", "--input-tokens", "1000", "--output-tokens", "500").stdout)
    assert found["price"]["all_cloud"] == pytest.approx(6)
    assert found["price"]["as_routed"] == pytest.approx(6 * (1 - found["routing"]["local"]["value"]))


def test_eval_exits_with_1_when_a_limit_is_missed_and_says_which(site: Site, run: Run) -> None:
    site.fill()
    wrong = [*GOOD, ("will it snow tonight", "refund")]
    assert run(wrong, "--min-accuracy", "0.8", "--max-wrong", "0.2").exit_code == 0
    missed = run(wrong, "--min-accuracy", "0.81", "--max-wrong", "0.1")
    assert missed.exit_code == 1
    assert "--min-accuracy: 0.8000 is less than 0.81" in missed.stderr
    assert "--max-wrong: 0.1667 is more than 0.1" in missed.stderr
    without = run([GOOD[-1]], "--min-accuracy", "0.1")
    assert without.exit_code == 1
    assert "there is no accuracy" in without.stderr


def test_eval_reads_languages_and_lengths_that_the_encoder_does_not_know(site: Site, run: Run) -> None:
    site.fill()
    texts = [
        "ขอเงินคืนสำหรับคำสั่งซื้อของฉัน",
        "أريد استرداد أموالي",
        "我想要退款，订单还没到",
        "refund " * 150_000,
        "\0",
    ]
    result = run([(text, "refund") for text in texts])
    assert result.exit_code == 0, result.output
    assert "5 prompts" in result.stdout


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "holds no prompts"),
        ('{"text": "hi", "intent": null}\n{"text"', "traffic.jsonl:2: not JSON"),
        ('{"text": "hi", "intent": "refnd"}', "unknown intent; the nearest known names: refund"),
    ],
)
def test_eval_exits_with_2_when_a_file_cannot_be_measured(
    site: Site, run: Run, content: str, expected: str
) -> None:
    site.fill()
    result = run(content)
    assert result.exit_code == 2
    assert expected in result.stderr


def test_eval_of_a_catalog_without_intents_says_so(run: Run) -> None:
    result = run(GOOD)
    assert result.exit_code == 2
    assert "intents/ holds no intents" in result.stderr


def test_eval_refuses_a_catalog_with_a_refused_file(site: Site, run: Run) -> None:
    write_intent(site.fill().intents, "lost", "nobody", ["where am I"])
    result = run(GOOD)
    assert result.exit_code == 2
    assert "lost.yaml" in result.stderr


def test_eval_names_a_report_that_it_cannot_write(site: Site, run: Run, tmp_path: Path) -> None:
    site.fill()
    result = run(GOOD, "--html", str(tmp_path / "no" / "such.html"))
    assert result.exit_code == 2
    assert "--html: " in result.stderr
    assert "No such file or directory" in result.stderr


def test_a_stale_calibration_is_used_as_it_is_served_and_named(site: Site, run: Run, tmp_path: Path) -> None:
    from pointsman.catalog.calibration_file import calibration_json
    from test_promise import promise

    site.fill()
    (tmp_path / "calibration.json").write_text(calibration_json(promise(required_confidence=1.0)))
    result = run(GOOD)
    assert result.exit_code == 0, result.output
    assert (
        "calibration.json is stale, so its promise does not hold: made with another encoder" in result.stdout
    )
    assert re.search(r"answered locally +0\.0", result.stdout)


def test_a_broken_calibration_ends_eval(site: Site, run: Run, tmp_path: Path) -> None:
    site.fill()
    (tmp_path / "calibration.json").write_text("{")
    result = run(GOOD)
    assert result.exit_code == 2
    assert "calibration.json" in result.stderr


def test_eval_names_the_version_that_decisions_carry(site: Site, run: Run) -> None:
    site.fill()
    with open_workbench(load()) as bench:
        expected = load_catalog(load()).digest(bench.encoder_hash)
    assert json.loads(run(GOOD, "--json").stdout)["catalog_version"] == expected


def test_eval_and_explain_read_the_bundle_where_one_is_served(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_workbench(site.fill().settings()) as bench:
        made = build_bundle(site.settings(), bench, site.root / "a.bundle")
    write_intent(site.intents, "hours", "support", ["when do you open", "opening hours"])
    monkeypatch.setenv("POINTSMAN_PATHS__BUNDLE", str(site.root / "a.bundle"))
    found = json.loads(run(GOOD, "--json").stdout)
    assert (found["catalog_version"], found["intents"]) == (made.version, 2)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(explain_command)
    explained = json.loads(CliRunner().invoke(app, ["when do you open", "--json"]).stdout)
    assert {standing["intent"] for standing in explained["standings"]} == {"refund", "weather"}
    (site.root / "a.bundle").write_bytes(b"x")
    assert "a.bundle" in run(GOOD).stderr


def test_outcomes_that_are_all_right_have_no_risk() -> None:
    labels = np.array([0, 1, NONE])
    outcomes = Outcomes(
        expected=labels,
        best=np.array([0, 1, 0]),
        accepted=np.array([True, True, False]),
        hard=np.zeros(3, np.bool_),
        margin=np.array([0.2, 0.1, -0.3]),
        confidence=np.array([0.9, 0.8, 0.1]),
        expected_target=labels,
        best_target=np.array([0, 1, 0]),
    )
    assert metrics.quality(outcomes).joint_accuracy == Share(3, 3)
    assert [point.risk for point in metrics.risk_coverage(outcomes)] == [0, 0, pytest.approx(1 / 3)]
