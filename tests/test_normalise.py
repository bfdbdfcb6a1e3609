"""Answers lose what templates and habits put around them, wherever the chunks end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.generation.normalise import MARKERS, Normaliser, normalised

CASES = [
    ("  hello <b> world </s>\n", False, "hello <b> world"),
    ("<|im_start|>assistant\nHi <|im_end|>", False, "Hi"),
    ("[INST] x [/INST]", False, "x"),
    ("use <|im_end|> to end a turn", False, "use <|im_end|> to end a turn"),
    ('```json\n{"a": 1}\n```', True, '{"a": 1}'),
    ('```json\n{"a": 1}\n```\n<|im_end|>', True, '{"a": 1}'),
    ('```json\n{"a": 1}\n```', False, '```json\n{"a": 1}\n```'),
    ("``` not a fence", True, "``` not a fence"),
    ("strike: <s>old</s>", False, "strike: <s>old</s>"),
    ("a  \n\n b \n", False, "a  \n\n b"),
    ("   ", True, ""),
    ("</s></s>", False, ""),
    ("a <|im_", False, "a <|im_"),
    ("<", False, "<"),
]


@pytest.mark.parametrize(("raw", "fenced", "expected"), CASES)
def test_an_answer_is_the_same_for_every_way_to_split_it_in_three(
    raw: str, fenced: bool, expected: str
) -> None:
    for i in range(len(raw) + 1):
        for j in range(i, len(raw) + 1):
            normaliser = Normaliser(fenced=fenced)
            parts = [normaliser.feed(raw[:i]), normaliser.feed(raw[i:j]), normaliser.feed(raw[j:])]
            assert "".join([*parts, normaliser.end()]) == normaliser.text == expected


PIECES = st.sampled_from([*MARKERS, "```", "```json\n", "\n", " ", "<", "word", "`", "{", "é", "[/"])


@given(st.lists(PIECES, max_size=12), st.booleans())
def test_chunks_of_any_kind_add_up_to_the_whole(pieces: list[str], fenced: bool) -> None:
    whole = normalised("".join(pieces), fenced=fenced)
    by_piece, by_character = Normaliser(fenced=fenced), Normaliser(fenced=fenced)
    for piece in pieces:
        by_piece.feed(piece)
        for character in piece:
            by_character.feed(character)
    by_piece.end()
    by_character.end()
    assert by_piece.text == by_character.text == whole


def test_text_that_needs_nothing_is_shown_at_once() -> None:
    normaliser = Normaliser()
    assert [normaliser.feed(piece) for piece in ("from", " the", " cloud")] == ["from", " the", " cloud"]
