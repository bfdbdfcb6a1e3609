"""Why a prompt goes where it goes, with the real encoder."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from harness import REFUND, WEATHER, Site, write_intent
from pointsman.cli.evaluate import explain as explain_command
from pointsman.errors import InvalidRequestError, UnknownNameError
from pointsman.host.offline import Workbench, open_workbench
from pointsman.review.explain import Explanation, explain, plain
from pointsman.router.snapshot import Learned, Matcher
from pointsman.settings import load
from pointsman.values.catalog import CLOUD, Catalog, Intent
from pointsman.values.decision import Hardness
from test_promise import promise

CANCEL = [
    "cancel my order", "please stop the delivery, I changed my mind", "I want to call off my purchase",
    "undo the order I placed this morning", "do not ship it, cancel", "can I still cancel what I bought",
    "withdraw my order", "cancel the second item", "I ordered by mistake, cancel it", "drop my order please",
]  # fmt: skip
CATALOG = Catalog(
    intents=(
        Intent("refund", "support", tuple(REFUND)),
        Intent("cancel", "support", tuple(CANCEL)),
        Intent("weather", CLOUD, tuple(WEATHER)),
    )
)
FAR = "compose a haiku on the smell of old books"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    cache = tmp_path_factory.mktemp("cache")
    with open_workbench(load(paths={"cache": cache})) as opened:
        yield opened


@pytest.fixture(scope="module")
def matcher(bench: Workbench) -> Matcher:
    return bench.matcher(CATALOG)


def changed(catalog: Catalog, name: str, **fields: object) -> Catalog:
    return replace(
        catalog, intents=tuple(replace(i, **fields) if i.name == name else i for i in catalog.intents)
    )


def explained(bench: Workbench, matcher: Matcher, text: str, **more: object) -> Explanation:
    return explain(text, matcher, bench.embed, bench.matcher, **more)


def said(explanation: Explanation) -> str:
    return "\n".join((*explanation.advice, *explanation.notes))


def test_every_intent_has_a_standing_and_the_first_is_the_one_that_is_served(
    bench: Workbench, matcher: Matcher
) -> None:
    found = explained(bench, matcher, "how do I get my money back")
    assert found.evidence == matcher.match(bench.embed(["how do I get my money back"])[0])
    assert found.evidence.accepted
    first, second, third = found.standings
    assert first.intent == found.evidence.intent == "refund"
    assert (first.score, first.threshold, first.behind) == (
        found.evidence.score, found.evidence.threshold, 0.0,
    )  # fmt: skip
    assert {second.intent, third.intent} == {"cancel", "weather"}
    assert 0 < second.behind < third.behind
    assert f"The runner-up '{second.intent}' is {second.behind:.3f} behind" in said(found)
    assert second.nearest.text in said(found)


def test_the_nearest_exemplar_of_an_intent_is_the_one_of_greatest_cosine(
    bench: Workbench, matcher: Matcher
) -> None:
    text = "is rain coming this weekend"
    row = bench.embed([text])[0]
    for standing in explained(bench, matcher, text).standings:
        exemplars = next(i.exemplars for i in CATALOG.intents if i.name == standing.intent)
        cosines = bench.embed(exemplars) @ row
        assert standing.nearest.text == exemplars[int(cosines.argmax())]
        assert standing.nearest.similarity == pytest.approx(float(cosines.max()), abs=1e-6)


def test_a_refused_prompt_is_told_how_much_is_missing_and_that_much_is_right(
    bench: Workbench, matcher: Matcher
) -> None:
    found = explained(bench, matcher, FAR)
    evidence = found.evidence
    assert not evidence.accepted
    missing = evidence.threshold - evidence.score
    assert f"must rise by {missing:.3f} to reach the threshold {evidence.threshold:.3f}" in said(found)
    advised = float(re.search(r"A threshold of at most (-?[\d.]+) in the file", said(found))[1])
    lowered = bench.matcher(changed(CATALOG, evidence.intent, threshold=advised))
    assert lowered.match(bench.embed([FAR])[0]).accepted
    higher = bench.matcher(changed(CATALOG, evidence.intent, threshold=advised + 0.002))
    assert not higher.match(bench.embed([FAR])[0]).accepted


def test_a_refused_prompt_is_tried_as_an_exemplar_of_the_best_intent(
    bench: Workbench, matcher: Matcher
) -> None:
    found = explained(bench, matcher, FAR)
    (what_if,) = found.what_if
    best = found.evidence.intent
    assert what_if.intent == best
    assert what_if.works
    exemplars = next(i.exemplars for i in CATALOG.intents if i.name == best)
    added = bench.matcher(changed(CATALOG, best, exemplars=(*exemplars, FAR)))
    assert what_if.evidence == added.match(bench.embed([FAR])[0])
    assert f"As an exemplar of '{best}' it would be accepted for '{best}'" in said(found)
    assert "its own nearest neighbour" in said(found)


def test_a_prompt_is_tried_as_an_exemplar_of_the_intent_that_is_named(
    bench: Workbench, matcher: Matcher
) -> None:
    text = "cancel it and give me my money back"
    plainly = explained(bench, matcher, text)
    assert plainly.evidence.accepted
    assert plainly.what_if == ()
    other = next(s.intent for s in plainly.standings if s.intent != plainly.evidence.intent)
    (what_if,) = explained(bench, matcher, text, as_intent=other).what_if
    assert (what_if.intent, what_if.works, what_if.evidence.intent) == (other, True, other)


def test_an_intent_that_its_negative_rules_out_is_named_with_that_negative(bench: Workbench) -> None:
    negative = "how do I get a refund for my train ticket"
    matcher = bench.matcher(changed(CATALOG, "refund", negatives=(negative, "a refund of taxes")))
    found = explained(bench, matcher, "how do I get a refund for my bus ticket")
    refund = next(standing for standing in found.standings if standing.intent == "refund")
    assert refund.behind is None
    assert refund.ruled_out_by.text == negative
    assert found.evidence.intent != "refund"
    assert f"'refund' is out of the question: its negative “{negative}”" in said(found)


def test_a_catalog_in_which_negatives_rule_everything_out_is_explained(bench: Workbench) -> None:
    catalog = Catalog(intents=tuple(replace(i, negatives=(FAR,)) for i in CATALOG.intents))
    found = explained(bench, bench.matcher(catalog), FAR)
    assert not found.evidence.accepted
    assert all(standing.behind is None for standing in found.standings)
    assert "Every intent has a negative" in said(found)
    json.dumps(plain(found), allow_nan=False)


def test_a_prompt_that_is_near_but_not_sure_enough_is_told_so(bench: Workbench) -> None:
    matcher = bench.matcher(CATALOG, Learned(promise(slope=1.0, intercept=0.0, required_confidence=0.99995)))
    found = explained(bench, matcher, "is it cold")
    assert found.evidence.near
    assert not found.evidence.accepted
    missing = found.evidence.required_confidence - found.evidence.confidence
    assert f"its confidence must rise by {missing:.3f}" in said(found)


class AlwaysHard:
    """A difficulty model to which everything is too hard."""

    on = True
    threshold = 0.1

    def judge(self, row: np.ndarray, text: str, intent: str) -> Hardness:
        return Hardness(0.7, 0.1)

    def covers(self, intent: str) -> bool:
        return True


def test_a_prompt_that_is_too_hard_for_its_specialist_is_told_so(bench: Workbench) -> None:
    found = explained(bench, bench.matcher(CATALOG, Learned(difficulty=AlwaysHard())), "money back please")
    assert found.evidence.accepted
    assert "its difficulty 0.700 is above the threshold 0.100. So it leaves 'support'" in said(found)


def test_a_threshold_set_by_hand_is_told_from_a_calibrated_one(bench: Workbench, matcher: Matcher) -> None:
    assert "calibrated)" in said(explained(bench, matcher, REFUND[0]))
    by_hand = bench.matcher(changed(CATALOG, "refund", threshold=0.25))
    assert "(now 0.250, set in its file)" in said(explained(bench, by_hand, REFUND[0]))


def test_a_prompt_that_is_an_exemplar_is_told_that_its_scores_say_nothing(
    bench: Workbench, matcher: Matcher
) -> None:
    assert "It is an exemplar of 'refund'" in said(explained(bench, matcher, f"  {REFUND[1].upper()} "))
    assert "It is an exemplar" not in said(explained(bench, matcher, FAR))


def test_an_intent_of_the_cloud_sends_to_the_cloud_either_way(bench: Workbench, matcher: Matcher) -> None:
    assert "Accepted or refused, it goes to the cloud" in said(
        explained(bench, matcher, "will it rain on Monday")
    )
    assert "Accepted or refused" not in said(explained(bench, matcher, "I want my money back now"))


def test_one_intent_alone_has_no_runner_up(bench: Workbench) -> None:
    found = explained(bench, bench.matcher(Catalog(intents=CATALOG.intents[:1])), "money back please")
    assert [standing.intent for standing in found.standings] == ["refund"]
    assert "runner-up" not in said(found)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_blank_prompt_is_refused(bench: Workbench, matcher: Matcher, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="blank"):
        explained(bench, matcher, text)


def test_an_unknown_intent_is_refused_with_those_that_are_known(bench: Workbench, matcher: Matcher) -> None:
    with pytest.raises(UnknownNameError, match="unknown intent 'refnd'; known: refund, cancel, weather"):
        explained(bench, matcher, "hi", as_intent="refnd")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        # As the default encoder's tokenizer reads Thai, Chinese, Arabic, Korean and Russian.
        (["[UNK]"], "1 of its 1 tokens are unknown"),
        (["我", "[UNK]", "[UNK]", "[UNK]", "，", "[UNK]"], "4 of its 6 tokens are unknown"),
        (["ا", "##ر", "##ي", "##د", "م", "##ن"], "6 of its 6 tokens are single letters"),
        (["ᄒ", "##ᅪ", "##ᆫ", "[UNK]"], "1 of its 4 tokens are unknown to the encoder and 3 of its 4 tokens"),
        (["х", "##о", "##ч", "##у"], "single letters"),
        (["<unk>", "▁a"], "unknown"),
    ],
)
def test_a_text_that_the_encoder_hardly_reads_is_noted(
    bench: Workbench, matcher: Matcher, tokens: list[str], expected: str
) -> None:
    notes = explained(bench, matcher, FAR, tokens=tokens).notes
    assert any(expected in note and "hardly reads this language" in note for note in notes)


@pytest.mark.parametrize(
    "tokens",
    [[], ["please", "ref", "##und", "my", "order"], ["i", "want", "a", "ref", "##und"], ["订", "单", "还", "没"], ["1", "+", "1"]],
)  # fmt: skip
def test_a_text_that_the_encoder_reads_is_not_noted(
    bench: Workbench, matcher: Matcher, tokens: list[str]
) -> None:
    assert not any("encoder" in note for note in explained(bench, matcher, FAR, tokens=tokens).notes)


# The command

Run = Callable[..., Result]


@pytest.fixture
def run(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`pointsman explain` on the site."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(explain_command)
    for key, path in (("INTENTS", site.intents), ("SPECIALISTS", site.specialists)):
        monkeypatch.setenv(f"POINTSMAN_PATHS__{key}", str(path))
    monkeypatch.setenv("POINTSMAN_PATHS__CALIBRATION", str(tmp_path / "calibration.json"))
    return lambda *arguments, **more: CliRunner().invoke(app, list(arguments), **more)


def test_explain_prints_neighbours_scores_and_advice(site: Site, run: Run) -> None:
    site.fill()
    result = run("please refund my broken lamp", "--as", "weather")
    assert result.exit_code == 0, result.output
    assert re.match(r"refund: accepted, goes to support; score 0\.\d{3}, threshold 0\.\d{3}", result.stdout)
    for part in ("refund the broken lamp", "runner-up 'weather'", "As an exemplar of 'weather'", "to spare"):
        assert part in result.stdout


def test_explain_prints_json_and_reads_standard_input(site: Site, run: Run) -> None:
    site.fill()
    found = json.loads(run("-", "--json", input="will it rain in [bold]Porto[/bold]").stdout)
    assert found["text"] == "will it rain in [bold]Porto[/bold]"
    assert found["evidence"]["intent"] == found["standings"][0]["intent"] == "weather"
    assert found["evidence"]["accepted"] is True


@pytest.mark.parametrize(
    "text",
    [
        "ขอเงินคืนสำหรับคำสั่งซื้อของฉัน", "أريد استرداد أموالي", "我想要退款，订单还没到", "\0", "🙂" * 300,
        pytest.param("refund " * 150_000, id="a megabyte"), "[/red] [[bold]",
    ],
)  # fmt: skip
def test_explain_works_on_any_text(site: Site, run: Run, text: str) -> None:
    site.fill()
    result = run("-", input=text)
    assert result.exit_code == 0, result.output
    assert len(result.stdout) < 10_000


def test_explain_of_a_catalog_without_intents_says_so(run: Run) -> None:
    result = run("hi")
    assert "intents/ holds no intents" in str(result.exception)


def test_explain_refuses_a_catalog_with_a_refused_file(site: Site, run: Run) -> None:
    write_intent(site.fill().intents, "lost", "nobody", ["where am I"])
    assert "lost.yaml" in str(run("hi").exception)


def test_rows_of_a_long_text_are_unit_rows(bench: Workbench) -> None:
    assert np.linalg.norm(bench.embed(["refund " * 150_000])[0]) == pytest.approx(1, abs=1e-5)
