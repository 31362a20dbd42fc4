"""Large weights are mapped from the graph's own file, and large vocabularies looked up, without changing a result."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tests.models import GOLDEN_CLIP
from tokenizers import Tokenizer

from sightline.encoders import tokens
from sightline.encoders.catalog import bundled_folder
from sightline.encoders.mapped import without_weights
from sightline.encoders.onnx import Graph, OnnxEncoder
from sightline.encoders.pieces import Pieces
from sightline.encoders.sessions import open_session

MINI = bundled_folder("mini")
WORDS = ("a dog", "running", "over the hill", "<eos>", "Straße", "naïve", "日本", "😀", "xyzzy", "\n", "<0x41>", "▁")


@pytest.mark.parametrize("tower", ["visual", "textual"])
@pytest.mark.parametrize("is_brief", [True, False])
def test_a_graph_without_its_weights_gives_the_same_vectors(tower: str, is_brief: bool, tmp_path: Path) -> None:
    place = tmp_path / "blob"
    place.symlink_to(MINI / tower / "model.onnx")  # as in the cache of `hf download`
    model = without_weights(place, least_bytes=1 << 14)
    assert model is not None
    assert len(model) < place.stat().st_size // 2
    plain = open_session(place, "cpu", 1)
    mapped = open_session(place, "cpu", 1, model, is_brief=is_brief)
    rng = np.random.default_rng(0)
    inputs = {}
    for one in plain.get_inputs():
        shape = [side if isinstance(side, int) else 2 for side in one.shape]
        dtype = np.uint8 if "uint8" in one.type else np.int64 if "64" in one.type else np.int32
        inputs[one.name] = rng.integers(1, 200, shape).astype(dtype)
    found, expected = mapped.run(None, inputs)[0], plain.run(None, inputs)[0]
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert (np.einsum("nd,nd->n", found, expected) / norms).min() > 0.9999  # kernels of 8 bits round apart unpacked
    if not is_brief:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_graph_that_is_cut_off_is_left_to_the_runtime(kept: float, tmp_path: Path) -> None:
    data = (MINI / "visual" / "model.onnx").read_bytes()
    cut = tmp_path / "model.onnx"
    cut.write_bytes(data[: int(len(data) * kept)])
    assert without_weights(cut, least_bytes=1 << 14) is None
    cut.write_bytes(random.Random(0).randbytes(3 << 20))
    assert without_weights(cut, least_bytes=1 << 14) is None


def test_a_mapped_tower_is_packed_after_some_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.encoders.onnx.LARGE_BYTES", 0)
    monkeypatch.setattr(without_weights, "__kwdefaults__", {"least_bytes": 1 << 14})
    encoder = OnnxEncoder(MINI)
    first = encoder.encode_texts(["a dog"])
    assert encoder._texts is not None
    graph: Graph = encoder._texts.latency_session()._graph
    session = graph._session
    for _ in range(12):
        assert float((encoder.encode_texts(["a dog"]) @ first.T).min()) > 0.9999
    assert graph._session is not session


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Byte fallback, no word borders inside pieces: what Gemma's tokenizer does, from pairs of its letters."""
    vocabulary = {token: at for at, token in enumerate(["<pad>", "<eos>", "<unk>"])}
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    rng, merges = random.Random(0), list[list[str]]()
    pieces = list("▁abcdefghijklmnopqrstuvwxyzABCéß<>0")
    vocabulary |= {piece: len(vocabulary) + at for at, piece in enumerate(pieces)}
    for _ in range(4000):
        pair = [rng.choice(pieces), rng.choice(pieces[:36])]
        if "".join(pair) not in vocabulary and len("".join(pair)) < 8:
            pieces.append("".join(pair))
            vocabulary[pieces[-1]] = len(vocabulary)
            merges.append(pair)
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document = {
        "version": "1.0",
        "added_tokens": [{"id": vocabulary[one], "content": one, **special} for one in ("<pad>", "<eos>", "<unk>")],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
        | {"vocab": vocabulary, "merges": merges},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_looking_pieces_up_cuts_texts_as_the_whole_vocabulary_does(tokenizer: Path) -> None:
    pieces, whole, rng = Pieces(tokenizer), Tokenizer.from_file(str(tokenizer)), random.Random(0)
    assert pieces.for_texts(["a dog"]) is None
    pieces.keep()
    letters = "".join(WORDS) + "abcdefghijklmnopqrstuvwxyz "
    for number in range(200):
        text = " ".join(rng.choices(WORDS, k=6)) if number % 2 else "".join(rng.choices(letters, k=40))
        some = pieces.for_texts([text, "another"])
        assert some is not None
        assert some.encode(text).ids == whole.encode(text).ids
        assert some.encode(text).tokens == whole.encode(text).tokens
    assert pieces.for_texts(["x" * 100_000]) is None


def test_another_vocabulary_is_not_looked_up_in_the_old_one(tokenizer: Path) -> None:
    Pieces(tokenizer).keep()
    tokenizer.write_text(tokenizer.read_text("utf-8") + " ", "utf-8")
    assert Pieces(tokenizer).for_texts(["a dog"]) is None


def test_tokens_are_the_same_before_and_after_pieces_are_kept(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokens, "_LARGE_BYTES", 0)
    config = tokens.tokenizer_config({"context_length": 12}, {"pad_token": "<pad>"}, tokenizer)
    first, second = tokens.Tokens(config), tokens.Tokens(config)
    assert (tmp_path / ".tokenizer.pieces").is_file()
    assert second._whole is None
    assert first.ids(WORDS) == second.ids(WORDS)
    assert [first.reads(word) == "no" for word in WORDS] == [second.reads(word) == "no" for word in WORDS]
    assert (first.pad_id, first.context_length) == (second.pad_id, second.context_length)


def test_pieces_of_a_folder_that_cannot_be_written_are_kept_in_the_cache(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sightline.encoders.pieces.default_cache", lambda: tmp_path / "cache")
    tokenizer.with_name(".tokenizer.pieces").mkdir()
    Pieces(tokenizer).keep()
    assert Pieces(tokenizer).for_texts(["a dog"]) is not None


def test_a_tokenizer_of_another_kind_is_used_whole(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes((GOLDEN_CLIP / "textual" / "tokenizer.json").read_bytes())
    Pieces(path).keep()
    assert not (tmp_path / ".tokenizer.pieces").exists()
