"""Words cleaned as the models were trained on them, and cut to their length."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models import GOLDEN_CLIP

from sightline.encoders.tokens import Tokens, cleaned, tokenizer_config
from sightline.errors import ModelDamaged

TOKENIZER = GOLDEN_CLIP / "textual" / "tokenizer.json"


def tokens(text_cfg: dict[str, Any] | None = None, settings: dict[str, Any] | None = None) -> Tokens:
    return Tokens(tokenizer_config({"context_length": 24} | (text_cfg or {}), settings or {}, TOKENIZER))


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("  A Dog\n runs\t ", "A Dog runs"),
        ("it’s “red” or ‘blue’", "it's \"red\" or 'blue'"),
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("cafe\u0301", "café"),
        ("ﬁsh ＆　ｃｈｉｐｓ", "fish & chips"),
        ("zero\x00width\ufeff", "zerowidth"),
        ("half \ud83d a smile", "half \ufffd a smile"),
        ("\ud83d\ude00", "😀"),
        ("", ""),
    ],
)
def test_what_people_paste_is_repaired(text: str, repaired: str) -> None:
    assert cleaned(text, "whitespace") == repaired


def test_clip_lowers_and_siglip_drops_punctuation_too() -> None:
    text = "Tom_&_Jerry's  NEW car!"
    assert cleaned(text, "lower") == "tom_&_jerry's new car!"
    assert cleaned(text, "canonicalize") == "tom jerrys new car"


@pytest.mark.parametrize(
    ("text_cfg", "is_lowered"),
    [
        ({}, True),
        ({"hf_tokenizer_name": "xlm-roberta-base"}, False),
        ({"hf_tokenizer_name": "any", "tokenizer_kwargs": {"clean": "canonicalize"}}, True),
    ],
)
def test_the_cleaning_is_that_of_the_config(text_cfg: dict[str, Any], is_lowered: bool) -> None:
    upper, lower = tokens(text_cfg).ids(["A DOG", "a dog"])
    assert (upper == lower) is is_lowered


def test_a_text_is_cut_but_keeps_the_mark_at_its_end() -> None:
    short, long = tokens().ids(["a dog", "dog " * 500])
    assert len(long) == 24
    assert (short[0], short[-1]) == (long[0], long[-1])


@given(st.text(st.characters(), max_size=300))
def test_any_text_becomes_ids_of_the_vocabulary(text: str) -> None:
    (ids,) = _TOKENS.ids([text])
    assert 1 <= len(ids) <= 24
    assert all(0 <= one < 574 for one in ids)


_TOKENS = tokens()


def test_a_megabyte_without_a_space_is_cut_too() -> None:
    assert len(tokens().ids(["x" * 1_000_000])[0]) == 24


@pytest.mark.parametrize("pad", ["!", {"content": "!", "lstrip": False}])
def test_the_padding_is_that_of_the_config(pad: Any) -> None:
    assert tokens(settings={"pad_token": pad}).pad_id == 0
    assert tokens(settings={"pad_token": '"'}).pad_id == 1
    assert tokens().pad_id == 0


def test_a_separator_is_dropped_where_the_config_says_so() -> None:
    end = tokens().ids(["a"])[0][-1]
    dropped = tokens({"tokenizer_kwargs": {"strip_sep_token": True}}, {"sep_token": "<end_of_text>"}).ids(["a"])[0]
    assert dropped[-1] == 0 != end
    assert dropped[:-1] == tokens().ids(["a"])[0][:-1]


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelDamaged, match=r"tokenizer\.json cannot be read"):
        Tokens(tokenizer_config({}, {}, tmp_path / "tokenizer.json"))


def test_whether_padding_is_seen_is_taken_from_the_config_where_it_says_so() -> None:
    assert tokenizer_config({"no_causal_mask": True}, {}, TOKENIZER).sees_padding
    assert tokenizer_config({"masks_padding": True}, {}, TOKENIZER).sees_padding is False
    assert tokenizer_config({}, {}, TOKENIZER).sees_padding is None
