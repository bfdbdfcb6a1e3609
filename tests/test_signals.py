"""What tokens say of an answer, and the curve and threshold that come of it."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.decision.answer_model import FEATURES, Judged, auroc, confidence_of, fit
from pointsman.decision.signals import (
    FLOOR,
    SignalReader,
    loop_start,
    names_of,
    refuses,
    repeated_share,
    subjects_of,
    words_of,
)
from pointsman.values.cascade import Signals


def read(*logprobs: float | None, text: str = "", asked: str = "") -> Signals:
    reader = SignalReader(asked, asked)
    for logprob in logprobs:
        reader.take(logprob)
    return reader.signals(text)


def test_minimum_three_lowest_mean_and_sum_are_of_all_tokens() -> None:
    signals = read(-0.1, -2.0, -0.5, -1.0, -0.4)
    assert signals.lowest == -2.0
    assert signals.lowest_three == pytest.approx(-3.5 / 3)
    assert signals.mean == pytest.approx(-0.8)
    assert signals.total == pytest.approx(-4.0)
    assert signals.tokens == 5


@given(st.lists(st.floats(-15, 0), min_size=1, max_size=60))
def test_signals_equal_what_sorting_all_tokens_gives(logprobs: list[float]) -> None:
    signals, least = read(*logprobs), sorted(logprobs)[:3]
    assert signals.lowest == pytest.approx(least[0])
    assert signals.lowest_three == pytest.approx(sum(least) / len(least))


def test_a_null_log_probability_is_no_confidence_and_an_untold_one_is_no_token() -> None:
    curve = fit({"a": _labelled(200)}, {"a": "h"}, 0.05, 0.95)[0].curve
    assert read(-0.01, None).tokens == 1
    assert confidence_of(curve, read(-0.01, -math.inf, -0.01)) == 0.0
    assert confidence_of(curve, read(-0.01, math.nan)) == 0.0
    assert confidence_of(curve, read(None, None)) is None
    assert (confidence_of(curve, read(-0.01, -0.01)) or 0) > 0.5
    assert read(-1000.0).lowest == FLOOR


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("Well. " + "it is what it is. " * 5, "Well. it is what it is."),
        ("one\nsame line\nsame line\nsame line\nsame line\nsame line\n", "one\nsame line"),
        ("no " * 12, "no"),
        ("a b c d e f g h i j k l", None),
        ("no no no", None),
        ("", None),
    ],
)
def test_a_circle_is_found_and_what_is_before_it_stands(text: str, stands: str | None) -> None:
    start = loop_start(text)
    assert (None if start is None else text[:start]) == stands


def test_repetition_is_the_share_of_sequences_that_came_before() -> None:
    assert repeated_share("a b c d e f g") == 0
    assert repeated_share("a b c d " * 10) > 0.8


@pytest.mark.parametrize("text", ["I'm sorry, but no", "  I’m unable to do that", "As an AI, I"])
def test_an_answer_that_declines_is_a_refusal(text: str) -> None:
    assert refuses(text)


def test_an_answer_about_refusals_is_none() -> None:
    assert not refuses("Say: I'm sorry, but no")


def _labelled(n: int, share_right: float = 0.8, seed: int = 0) -> list[Judged]:
    rng = random.Random(seed)  # noqa: S311 - no secret
    found = []
    for i in range(n):
        right = rng.random() < share_right
        logprobs = [-rng.expovariate(12 if right else 3) for _ in range(rng.randint(5, 20))]
        found.append(Judged(read(*logprobs), right, fitting=i % 2 == 0))
    return found


def test_a_threshold_from_enough_labels_keeps_its_risk_on_fresh_answers() -> None:
    broken = 0
    fresh = _labelled(2000, seed=99)
    for seed in range(20):
        (model,) = fit({"a": _labelled(600, seed=seed)}, {"a": "h"}, 0.05, 0.9)
        assert model.holds
        assert not model.shared
        wrong = sum(
            (confidence_of(model.curve, j.signals) or 0) >= model.required_confidence and not j.right
            for j in fresh
        )
        broken += wrong / len(fresh) > 0.05
    assert broken <= 5  # 10 % of 20 are expected; 6 or more have a probability under 1.2 %


def test_too_few_labels_escalate_everything_and_say_how_many_are_missing() -> None:
    (model,) = fit({"a": _labelled(40)}, {"a": "h"}, 0.05, 0.95)
    assert not model.holds
    assert model.required_confidence == 1
    assert model.labels_missing is not None
    assert 20 <= model.labels_missing <= 100
    (none,) = fit({"a": _labelled(1)}, {"a": "h"}, 0.05, 0.95)
    assert none.labels_missing == 59  # 0.95 ** 59 < 0.05
    assert not none.holds


def test_labels_that_are_mostly_wrong_promise_nothing_and_more_would_not_help() -> None:
    noise = [Judged(j.signals, i % 3 == 0, j.fitting) for i, j in enumerate(_labelled(400))]
    (model,) = fit({"a": noise}, {"a": "h"}, 0.01, 0.95)
    assert not model.holds


def test_a_specialist_with_few_labels_shares_the_curve_and_has_a_threshold_of_its_own() -> None:
    models = fit({"many": _labelled(600), "few": _labelled(30, seed=5)}, {"many": "h", "few": "k"}, 0.05, 0.9)
    few, many = models
    assert (few.specialist, few.shared, many.shared) == ("few", True, False)
    assert not few.holds
    assert many.holds


def test_answers_that_are_all_right_make_a_flat_curve_that_stands() -> None:
    answers = [Judged(j.signals, right=True, fitting=j.fitting) for j in _labelled(300)]
    (model,) = fit({"a": answers}, {"a": "h"}, 0.05, 0.95)
    assert model.holds
    assert set(model.curve.weights) == {0.0}
    assert model.auroc is None


def test_strange_words_are_those_of_the_answer_that_the_conversation_does_not_hold() -> None:
    asked = "columns: city, Host_Team\nWhich city for Île-de-France 2019?"
    signals = read(-0.1, text="SELECT host_team WHERE city = 'île-de-france 2018'", asked=asked)
    assert signals.strange == {"select", "where", "2018"}
    assert words_of("SELECT cit", whole=False) == {"select"}
    assert words_of("SELECT city ", whole=False) == {"select", "city"}
    assert words_of("") == words_of("", whole=False) == frozenset()


def _copied(n: int) -> list[Judged]:
    """Answers that all look sure; the wrong ones hold a name that nobody said."""
    rng = random.Random(0)  # noqa: S311 - no secret
    found = []
    for i in range(n):
        right, name = rng.random() < 0.7, f"name{i}"
        text = f"CITY: {name if right else f'other{i}'}"
        logprobs = [-rng.expovariate(12) for _ in range(8)]
        found.append(
            Judged(read(*logprobs, text=text, asked=f"weather in {name}"), right, fitting=i % 2 == 0)
        )
    return found


def test_a_word_that_nobody_said_is_a_sign_of_error_and_one_of_the_format_is_none() -> None:
    (model,) = fit({"a": _copied(300)}, {"a": "h"}, 0.05, 0.95)
    assert model.curve.words == {"city"}
    assert model.auroc is not None
    assert model.auroc > 0.99
    assert model.holds
    assert model.kept > 0.6


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Which engine has the Lotus of “Ann Boy-Quiat”?", {"lotus", "ann", "boy", "quiat"}),
        ("Rain in Oslo? Snow in Île-de-France: Perhaps.", {"oslo", "île", "france"}),
        ("WHAT OPPONENT HAD A DATE?\ncolumns: Week", set()),
        ("Play (Bowie) on the X1 and in 2019", {"bowie"}),
        ("", set()),
    ],
)
def test_names_begin_with_a_capital_within_a_sentence(text: str, names: set[str]) -> None:
    assert names_of(text) == names


def test_what_two_lines_hold_is_what_a_prompt_is_about() -> None:
    asked = (
        "columns: home_team, Attendance, date, x, 20\nWhich date has an attendance of the, the 20,562? x 20"
    )
    assert subjects_of(asked) == {"date", "attendance"}
    assert subjects_of("") == set()


def test_only_a_whole_answer_leaves_something_out() -> None:
    reader = SignalReader("hello Ann", "columns: city, date\nWhich city has a date with Oslo and Ann Lee?")
    reader.take(-0.1)
    signals = reader.signals("SELECT city WHERE name = 'oslo'")
    assert (signals.unnamed, signals.unsaid) == ({"ann", "lee"}, {"date"})
    assert signals.untold == {"which", "has", "a", "date", "with", "and", "ann", "lee"}
    begun = reader.signals("SELECT city", whole=False)
    assert (begun.unnamed, begun.unsaid, begun.untold) == (set(), set(), set())


@pytest.mark.parametrize(
    ("text", "altered", "borrowed", "twice"),
    [
        ("SELECT city WHERE crowd = 'O'Hara Park'", set(), set(), set()),
        ("SELECT city WHERE crowd = 'o'hara'", set(), set(), set()),
        ("SELECT city WHERE crowd = 'hara park o'", {"hara park o"}, set(), set()),
        ("SELECT attendance WHERE crowd = 'o'hara park'", set(), {"attendance"}, set()),
        ("SELECT city WHERE city = 'attendance'", set(), set(), {"city"}),
        ('{"city": "Park", "crowd": "none"}', {"none"}, set(), set()),
        ("", set(), set(), set()),
    ],
)
def test_quotes_are_held_to_the_letter_and_fields_to_the_lines_that_name_them(
    text: str, altered: set[str], borrowed: set[str], twice: set[str]
) -> None:
    signals = read(-0.1, text=text, asked="columns: city, crowd\nWhat attendance had O'Hara Park?")
    assert (signals.altered, signals.borrowed, signals.twice) == (altered, borrowed, twice)


def test_a_prompt_of_one_line_names_no_fields_and_what_is_still_open_is_not_judged() -> None:
    assert read(-0.1, text="weather", asked="the weather in Oslo").borrowed == set()
    reader = SignalReader("fields: city\nweather in Oslo", "fields: city\nweather in Oslo")
    reader.take(-0.1)
    begun = reader.signals("city = 'weather or", whole=False)
    assert (begun.altered, begun.borrowed, begun.twice) == (set(), set(), set())
    assert reader.signals("city = 'weather or'", whole=False).altered == {"weather or"}
    assert reader.signals("weather", whole=False).borrowed == set()
    assert reader.signals("weather ", whole=False).borrowed == {"weather"}


def test_a_quote_of_the_formats_own_words_is_not_altered() -> None:
    answers = [
        Judged(read(-0.1 * i, text='{"kind": "x"}', asked=f"case {i}"), right=i % 3 > 0, fitting=True)
        for i in range(60)
    ]
    (model,) = fit({"a": answers}, {"a": "h"}, 0.05, 0.95)
    assert model.curve.words == {"kind", "x"}
    assert model.curve.centre[model.curve.features.index("altered")] == 0


def test_what_a_question_says_is_reckoned_with_once_enough_labels_tell_what_need_not_be_said() -> None:
    few, many = (fit({"a": _forgetful(n)}, {"a": "h"}, 0.05, 0.95)[0] for n in (398, 402))
    assert (few.fitting, many.fitting) == (199, 201)
    assert set(many.curve.features) - set(few.curve.features) == {"untold"}


def _forgetful(n: int) -> list[Judged]:
    """Answers that all look sure; the wrong ones leave out a name. All leave out "Please" and "note"."""
    rng = random.Random(0)  # noqa: S311 - no secret
    found = []
    for i in range(n):
        right, name = rng.random() < 0.7, "".join(chr(97 + int(digit)) for digit in str(i))
        asked = f"fields: city, note\nso, Please, the weather in the city Oslo{name}, as a note"
        logprobs = [-rng.expovariate(12) for _ in range(8)]
        text = f"CITY: oslo{name}" if right else "CITY: weather"
        found.append(Judged(read(*logprobs, text=text, asked=asked), right, fitting=i % 2 == 0))
    return found


def test_a_name_that_is_left_out_is_a_sign_of_error_and_what_all_leave_out_is_none() -> None:
    (model,) = fit({"a": _forgetful(300)}, {"a": "h"}, 0.05, 0.95)
    assert model.curve.passed_over == {"so", "please", "the", "weather", "in", "as", "a", "note"}
    assert model.auroc is not None
    assert model.auroc > 0.99
    assert model.holds
    assert model.kept > 0.6


def test_a_shared_curve_does_not_reckon_with_what_differs_between_specialists() -> None:
    few, many = fit({"many": _forgetful(300), "few": _labelled(30)}, {"many": "h", "few": "k"}, 0.05, 0.9)
    assert (few.shared, many.shared) == (True, False)
    own = {"altered", "borrowed", "twice", "unnamed", "unsaid"}
    assert set(many.curve.features) - set(few.curve.features) == own


def test_no_answer_vouches_for_its_own_words() -> None:
    twice = [Judged(read(-0.1, text="odd word"), True, fitting=True) for _ in range(2)]
    others = [Judged(read(-0.1, text="common"), i % 2 == 0, fitting=True) for i in range(40)]
    (model,) = fit({"a": twice + others}, {"a": "h"}, 0.05, 0.95)
    assert model.curve.words == {"odd", "word", "common"}
    strange = model.curve.features.index("strange")
    assert model.curve.centre[strange] > 0  # the two were strange to each other while the curve was fitted


def test_features_are_fields_of_the_signals() -> None:
    assert set(FEATURES) <= set(Signals.__dataclass_fields__)


def test_auroc_counts_ties_half() -> None:
    right = np.array([True, False, True, False])
    assert auroc(np.array([0.9, 0.1, 0.8, 0.2]), right) == 1
    assert auroc(np.array([0.5, 0.5, 0.5, 0.5]), right) == 0.5
    assert auroc(np.array([0.5, 0.5]), np.array([True, True])) is None
