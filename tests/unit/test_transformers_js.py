"""Models in the layout of transformers.js, from a folder and from a hub: CLIP and SigLIP, in several precisions."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.hubs import COMMIT, FakeHub, running
from tests.models import DATA, DIM, GOLDEN_CLIP, LENGTH, SIDE, make_folder
from tests.pictures import scene

from sightline.encoders.base import load_encoder
from sightline.encoders.hub import Hub
from sightline.encoders.onnx import OnnxEncoder
from sightline.errors import HubUnreachable, ModelDamaged, ModelNotFound, UsageError

NAME = "onnx-community/tiny"
TEXTS = ["A red DOG", "a cat, asleep"]
CLIP = {
    "do_center_crop": True,
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "resample": 3,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
SIGLIP = {"size": {"height": SIDE, "width": SIDE}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def write(folder: Path, kind: str = "clip", *, textual: str | None = "textual-with-mask", **more: Any) -> Path:
    """As transformers.js has it: two precisions of the picture tower, which differ, and two of the text tower."""
    (folder / "onnx").mkdir(parents=True)
    for suffix, graph in (("", "visual-float"), ("_fp16", "visual-half")):
        shutil.copy(DATA / "graphs" / f"{graph}.onnx", folder / "onnx" / f"vision_model{suffix}.onnx")
    for suffix in ("", "_quantized") if textual else ():
        shutil.copy(DATA / "graphs" / f"{textual}.onnx", folder / "onnx" / f"text_model{suffix}.onnx")
    shutil.copy(GOLDEN_CLIP / "textual" / "tokenizer.json", folder)
    settings = {"pad_token": "!", "model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer"} | more
    dim = {"projection_dim": DIM} if kind == "clip" else {"vision_config": {"hidden_size": DIM}}
    text = {"text_config": {"max_position_embeddings": LENGTH}}
    documents: dict[str, dict[str, Any]] = {
        "config.json": {"model_type": kind, **dim, **text},
        "preprocessor_config.json": CLIP if kind == "clip" else SIGLIP,
        "tokenizer_config.json": settings,
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document), "utf-8")
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running(FakeHub()) as server:
        server.add(NAME, write(tmp_path / "published"), **{"onnx/model.onnx": b"both towers", "README.md": b"x"})
        yield server


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Hub:
    return Hub(server.endpoint, tmp_path / "cache")


def vectors(encoder: Any) -> tuple[Any, Any]:
    pictures = np.stack([encoder.preprocess(scene(seed)) for seed in range(3)])
    return encoder.encode_images(pictures), encoder.encode_texts(TEXTS)


def same(one: Any, other: Any) -> bool:
    return all(np.allclose(a, b, atol=1e-5) for a, b in zip(vectors(one), vectors(other), strict=True))


def test_a_clip_gives_the_vectors_of_the_same_graphs_in_open_clips_layout(tmp_path: Path) -> None:
    cfg = {"hf_tokenizer_name": "any"}
    theirs = make_folder(tmp_path / "a", textual="textual-with-mask", text_cfg=cfg, pixels={"resize_mode": "shortest"})
    assert same(OnnxEncoder(write(tmp_path / "b")), OnnxEncoder(theirs))


@pytest.mark.parametrize(
    ("tokenizer", "clean"), [("SiglipTokenizer", "canonicalize"), ("GemmaTokenizer", "lower"), ("", "lower")]
)
def test_a_siglip_reads_lower_case_at_full_length_and_squashes(tmp_path: Path, tokenizer: str, clean: str) -> None:
    cfg = {"no_causal_mask": True, "tokenizer_kwargs": {"clean": clean}}
    theirs = make_folder(tmp_path / "a", text_cfg=cfg, pixels={"resize_mode": "squash"})
    ours = write(tmp_path / "b", "siglip", textual="textual-sees-padding", tokenizer_class=tokenizer)
    assert same(OnnxEncoder(ours), OnnxEncoder(theirs))


def test_a_model_of_pictures_alone_has_no_words(tmp_path: Path) -> None:
    assert not OnnxEncoder(write(tmp_path / "m", textual=None)).knows_words


def test_the_precision_chooses_the_graphs_and_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    finest, mixed = OnnxEncoder(folder), OnnxEncoder(folder, precision="fp16+int8")
    assert (mixed._images._load.args[0].name, mixed._texts._load.args[0].name) == (  # type: ignore[attr-defined, union-attr]
        "vision_model_fp16.onnx",
        "text_model_quantized.onnx",
    )
    assert len({finest.fingerprint, mixed.fingerprint, OnnxEncoder(folder, precision="fp32+int8").fingerprint}) == 3
    assert finest.picture_fingerprint == OnnxEncoder(folder, precision="fp32+int8").picture_fingerprint
    assert finest.picture_fingerprint != mixed.picture_fingerprint
    with pytest.raises(ModelNotFound, match="no vision tower of precision q4, expected fp32 or fp16"):
        OnnxEncoder(folder, precision="q4")
    with pytest.raises(UsageError, match="the precision is 'int4', expected one of fp32, fp16, int8"):
        OnnxEncoder(folder, precision="int4")


def test_another_kind_of_model_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelDamaged, match="of type 'bert', expected clip or siglip"):
        OnnxEncoder(folder)
    for path in folder.glob("onnx/vision*"):
        path.unlink()
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ModelNotFound, match=r"holds no onnx/vision_model.onnx"):
        OnnxEncoder(folder)


def test_a_name_on_the_hub_fetches_only_the_graphs_of_that_precision(hub: Hub, server: FakeHub) -> None:
    encoder = load_encoder(f"hub:{NAME}:fp16+int8", hub=hub)
    assert encoder.name == f"hub:{NAME}:fp16+int8"
    fetched = {one.path.partition(f"/{COMMIT}/")[2] for one in server.fetched()}
    graphs = {"onnx/vision_model_fp16.onnx", "onnx/text_model_quantized.onnx"}
    assert fetched == graphs | {"config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    server.asked.clear()
    assert same(load_encoder(f"hub:{NAME}:fp16+int8", hub=hub), encoder)
    assert server.asked == []


def test_the_picture_tower_comes_first(hub: Hub, server: FakeHub) -> None:
    hub.fetch(NAME)
    order = [one.path.partition(f"/{COMMIT}/")[2] for one in server.fetched()]
    assert order.index("onnx/vision_model.onnx") < order.index("onnx/text_model.onnx")


def test_a_revision_is_asked_for_and_kept_apart(hub: Hub, server: FakeHub) -> None:
    main = hub.fetch(NAME)
    pinned = hub.fetch(f"{NAME}@{COMMIT}")
    assert main != pinned
    listings = [one.path for one in server.asked if one.path.startswith("/api/models/")]
    assert [path.partition("/revision/")[2] for path in listings] == ["main?blobs=true", f"{COMMIT}?blobs=true"]
    assert same(load_encoder(f"hub:{NAME}@{COMMIT}", hub=hub), load_encoder(f"hub:{NAME}", hub=hub))


def test_either_layout_has_a_name_on_the_hub(hub: Hub, server: FakeHub) -> None:
    server.add("immich-app/tiny", GOLDEN_CLIP)
    assert same(load_encoder("hub:immich-app/tiny", hub=hub), OnnxEncoder(GOLDEN_CLIP))


def test_what_hf_download_fetched_is_found_by_revision_and_precision(tmp_path: Path) -> None:
    snapshots = tmp_path / "hf" / f"models--{NAME.replace('/', '--')}" / "snapshots"
    write(snapshots / COMMIT)
    (snapshots / COMMIT / "onnx" / "vision_model.onnx").unlink()
    (snapshots / COMMIT / "onnx" / "text_model.onnx").unlink()
    hub = Hub(cache=tmp_path / "cache", offline=True, hf_cache=tmp_path / "hf")
    assert hub.folder(f"{NAME}@{COMMIT}") == snapshots / COMMIT
    assert hub.folder(f"{NAME}@{COMMIT}:fp32") is None
    with pytest.raises(HubUnreachable, match="offline mode is on"):
        load_encoder(f"hub:{NAME}", hub=hub)


@pytest.mark.parametrize("name", ["hub:tiny", "hub:a/b/c", "hub:", "hub:../..", "hub:a/b@..", "hub:a/b:int8:int8"])
def test_a_name_of_another_form_is_wrong_use(name: str, hub: Hub) -> None:
    with pytest.raises(UsageError, match="expected owner/name, owner/name@revision"):
        load_encoder(name, hub=hub)


def test_a_licence_against_commercial_use_is_said_before_anything_is_fetched(
    hub: Hub, server: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    server.card = {"license": "cc-by-nc-4.0"}
    load_encoder(f"hub:{NAME}", hub=hub)
    assert "the licence of onnx-community/tiny, cc-by-nc-4.0, forbids commercial use" in caplog.text
