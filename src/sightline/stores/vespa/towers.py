"""A model folder turned into what Vespa's embedder needs to run its text tower, or into the reason why it cannot.

Vespa's `hugging-face-embedder` runs one text at a time: Hugging Face tokenizer without padding, ONNX graph with one to
three inputs (ids, mask, types), pooling `none` for a graph that gives (batch, dim), then normalisation.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import UsageError

_TRIALS = ("a red dog", "A Red Dog, running!", "Zwei Hunde im Schnee", "café — 雪山")


@dataclass(frozen=True, slots=True)
class Tower:
    """The files of a text tower, the names in its graph (empty for what it has not), and its longest text in tokens."""

    model: Path
    tokenizer: Path
    input: str
    mask: str
    types: str
    output: str
    longest: int


def read_tower(folder: Path, dim: int) -> Tower:
    """What Vespa needs of a model in the open_clip ONNX layout; `UsageError`, with the reason, if it cannot run it.

    It cannot run graphs of a fixed length or that see their padding (SigLIP), texts that are cleaned in a way that the
    tokenizer does not know, tokens taken out after tokenizing, weights outside the graph, and results in 16 bits.
    """
    model, tokenizer = folder / "textual" / "model.onnx", folder / "textual" / "tokenizer.json"
    try:
        text = json.loads((folder / "config.json").read_text("utf-8"))["text_cfg"]
    except (OSError, ValueError, KeyError) as error:
        raise _refusal(folder, f"config.json has no text_cfg ({error})") from error
    if not model.is_file() or not tokenizer.is_file():
        raise _refusal(folder, "textual/model.onnx or textual/tokenizer.json is missing")
    if [path for path in model.parent.iterdir() if path.suffix in (".data", ".onnx_data")]:
        raise _refusal(folder, "the weights lie outside the graph")
    _check_cleaning(folder, text, tokenizer)
    longest = int(text.get("context_length") or 77)
    return _tower(folder, model, tokenizer, longest, dim, masks_padding=bool(text.get("masks_padding")))


def _tower(folder: Path, model: Path, tokenizer: Path, longest: int, dim: int, *, masks_padding: bool) -> Tower:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs = {one.name: one for one in session.get_inputs()}
    mask = next((name for name in inputs if "mask" in name), "")
    types = next((name for name in inputs if "type" in name), "")
    others = [name for name in inputs if name not in (mask, types)]
    outputs = [one for one in session.get_outputs() if len(one.shape) == 2 and one.shape[1] == dim]
    if len(others) != 1 or (types and not mask):
        raise _refusal(folder, f"the graph takes {', '.join(inputs)}, not ids, a mask and types")
    if not outputs or outputs[0].type != "tensor(float)":
        raise _refusal(folder, f"the graph gives no float32 of the shape (batch, {dim})")
    if isinstance(inputs[others[0]].shape[1], int):
        raise _refusal(folder, "the graph wants texts of a fixed length, and Vespa's embedder never pads")
    tower = Tower(model, tokenizer, others[0], mask, types, outputs[0].name, longest)
    if not masks_padding and not _is_same_when_cut(session, tower):
        raise _refusal(folder, "the vector of a text changes with its padding, and Vespa's embedder never pads")
    return tower


def _check_cleaning(folder: Path, text: Mapping[str, Any], tokenizer: Path) -> None:
    """The tokenizer alone must give what the cleaned text gives: Vespa cleans nothing."""
    from tokenizers import Tokenizer

    options = text.get("tokenizer_kwargs") or {}
    if text.get("no_causal_mask"):
        raise _refusal(folder, "its text tower sees the padding (no_causal_mask), and Vespa's embedder never pads")
    if options.get("strip_sep_token"):
        raise _refusal(folder, "it wants a token removed after tokenizing (strip_sep_token)")
    clean = options.get("clean") or ("whitespace" if text.get("hf_tokenizer_name") else "lower")
    reader = Tokenizer.from_file(str(tokenizer))
    changed = [one for one in _TRIALS if clean == "lower" and reader.encode(one).ids != reader.encode(one.lower()).ids]
    if clean not in ("lower", "whitespace") or changed:
        raise _refusal(folder, f"it wants text cleaned ({clean}) in a way that its tokenizer.json does not")


def _is_same_when_cut(session: Any, tower: Tower) -> bool:
    """Whether padding to the full length leaves a vector as it is; some graphs only claim that any length fits."""
    import numpy as np
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tower.tokenizer))
    pad = int((reader.padding or {}).get("pad_id", 0))
    reader.no_padding()
    ids = reader.encode(_TRIALS[0]).ids
    rows = []
    for length in (len(ids), tower.longest):
        table = np.array([ids + [pad] * (length - len(ids))])
        given = {tower.input: table, tower.mask: table * 0 + (np.arange(length) < len(ids)), tower.types: table * 0}
        kinds = {one.name: np.int32 if one.type == "tensor(int32)" else np.int64 for one in session.get_inputs()}
        (row,) = session.run([tower.output], {name: given[name].astype(kind) for name, kind in kinds.items()})
        rows.append(row[0] / np.linalg.norm(row[0]))
    return float(rows[0] @ rows[1]) > 0.95  # dynamic int8 alone: 0.98


def _refusal(folder: Path, reason: str) -> UsageError:
    return UsageError(
        f"the text tower of {folder} cannot run in Vespa: {reason}; expected an open_clip ONNX model whose graph takes "
        "texts of any length: leave text_model out, and Sightline turns words into vectors itself"
    )
