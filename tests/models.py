"""Model folders for tests: the golden models, and towers of a few operators with a peculiarity each."""

import json
import shutil
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
GOLDEN_CLIP = DATA / "golden" / "clip"
GOLDEN_SIGLIP = DATA / "golden" / "siglip"
SIDE, DIM, LENGTH = 4, 4, 24
"""Of the graphs in tests/data/graphs; see tests/parity/make_graphs.py."""


def make_folder(
    folder: Path,
    *,
    visual: str = "visual-float",
    textual: str | None = "textual-sees-padding",
    text_cfg: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    pixels: dict[str, Any] | None = None,
    tokens: dict[str, Any] | None = None,
) -> Path:
    """A model folder of two small graphs and the golden tokenizer; keywords add to the configs."""
    (folder / "visual").mkdir(parents=True)
    shutil.copy(DATA / "graphs" / f"{visual}.onnx", folder / "visual" / "model.onnx")
    described: dict[str, Any] = {"embed_dim": DIM, "vision_cfg": {"image_size": SIDE}}
    if textual:
        (folder / "textual").mkdir()
        shutil.copy(DATA / "graphs" / f"{textual}.onnx", folder / "textual" / "model.onnx")
        shutil.copy(GOLDEN_CLIP / "textual" / "tokenizer.json", folder / "textual")
        _write(folder / "textual" / "tokenizer_config.json", {"pad_token": "!"} | (tokens or {}))
        described["text_cfg"] = {"context_length": LENGTH} | (text_cfg or {})
    _write(folder / "config.json", described | (config or {}))
    _write(
        folder / "visual" / "preprocess_cfg.json", {"size": SIDE, "mean": [0.5] * 3, "std": [0.5] * 3} | (pixels or {})
    )
    return folder


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values), "utf-8")
