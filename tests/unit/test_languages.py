"""Words in a language that a model does not read are told from English ones with rare names."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from sightline.encoders.catalog import bundled_folder
from sightline.encoders.tokens import Tokens, tokenizer_config

FOREIGN = [
    "ein Hund am Strand",
    "Katze",
    "zwei Hunde im Schnee",
    "perro en la playa",
    "mujer con sombrero rojo",
    "niños jugando",
    "chien sur la plage",
    "un homme",
    "un cane sulla spiaggia",
    "um cachorro na praia",
    "een hond op het strand",
    "hund på stranden",
    "pies na plaży",
    "sahilde bir köpek",
    "chó trên bãi biển",
    "mbwa anakimbia kwenye ufukwe",
]
ENGLISH = [
    "a dog on the beach",
    "labradoodle",
    "brachiosaurus in Reykjavik",
    "quetzalcoatlus archaeopteryx velociraptor",
    "São Paulo skyline",
    "a café in Zürich",
    "crème brûlée",
    "Leonardo da Vinci",
    "Vincent van Gogh sunflowers",
    "Los Angeles",
    "Las Vegas at night",
    "Das Boot",
    "la la land",
    "Hotel du Nord",
    "jalapeño",
    "film noir",
    "a kind of strand",
    "2024",
    "a dog 🐶",
    "",
]


@pytest.fixture(scope="module")
def english() -> Tokens:
    return Tokens(tokenizer_config({"context_length": 64}, {}, bundled_folder("mini") / "textual" / "tokenizer.json"))


@pytest.fixture
def byte_level(tmp_path: Path) -> Tokens:
    """A vocabulary of bytes, as CLIP's, with few words: letters of other scripts take two or three pieces each."""
    vocabulary = {piece: number for number, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return Tokens(tokenizer_config({}, {}, tmp_path / "tokenizer.json"))


@pytest.fixture
def of_many_languages(tmp_path: Path) -> Tokens:
    """A vocabulary with the words of many languages in it, and a piece for each letter of Chinese."""
    words = ["[UNK]", "ein", "Hund", "am", "Strand", "собака", "на", "пляже", *"犬浜辺の", *map(str, range(70_000))]
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"hf_tokenizer_name": "any"}  # which keeps the case
    return Tokens(tokenizer_config(config, {}, tmp_path / "tokenizer.json"))


@pytest.mark.parametrize("text", FOREIGN)
def test_words_of_other_languages_are_doubted(text: str, english: Tokens) -> None:
    assert english.reads(text) == "perhaps"


@pytest.mark.parametrize("text", ENGLISH)
def test_english_with_rare_names_is_not(text: str, english: Tokens) -> None:
    assert english.reads(text) == "yes"


@pytest.mark.parametrize("text", ["собака на пляже", "犬が走る", "一只狗", "개가 해변에", "หมาบนชายหาด", "🐕"])
def test_letters_that_are_spelt_out_in_bytes_are_not_read(text: str, byte_level: Tokens) -> None:
    assert byte_level.reads(text) == "no"
    assert byte_level.reads("a dog") == "yes"


@pytest.mark.parametrize("text", ["ein Hund am Strand", "собака на пляже", "犬 浜 辺", "犬"])
def test_a_model_of_many_languages_is_not_doubted(text: str, of_many_languages: Tokens) -> None:
    assert of_many_languages.reads(text) == "yes"
