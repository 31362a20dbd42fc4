"""A CLIP of another library goes through the same training: what moves, what stays, and what can go wrong."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")
for _package in ("onnx", "open_clip", "transformers"):
    if find_spec(_package) is None:
        pytest.skip("needs the torch extra", allow_module_level=True)

from PIL import Image  # noqa: E402
from tests import clips, tiny  # noqa: E402

from sightline.encoders.hub import Hub  # noqa: E402
from sightline.encoders.onnx import OnnxEncoder  # noqa: E402
from sightline.encoders.preprocess import preprocessing  # noqa: E402
from sightline.errors import ModelDamaged, ModelNotFound, SightlineError, SourceError, TrainingError, UsageError  # noqa: E402
from sightline.train import checkpoint, clip  # noqa: E402
from sightline.train.config import (  # noqa: E402
    DataSettings,
    Device,
    Mode,
    OptimiserSettings,
    Settings,
    StartSettings,
    read_settings,
)
from sightline.train.loop import trainer  # noqa: E402
from sightline.train.model import choose_device, export  # noqa: E402
from sightline.train.pictures import PictureFiles, random_crop  # noqa: E402
from sightline.train.run import Progress, prepare, train  # noqa: E402

pytestmark = pytest.mark.torch


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    tiny.coloured_pictures(path)
    clips.open_clip_folder(path / "vit")
    clips.transformers_folder(path / "hf")
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    train_set = DataSettings(table="captions.tsv", images=".", split="train")
    return Settings(
        output=str(tmp_path / "out"),
        precision="float32",
        data=(train_set,),
        measure=(replace(train_set, name="dev", split="dev"),),
        start=StartSettings(model="open_clip:./vit"),
        optimiser=OptimiserSettings(
            steps=4, batch_size=8, warm_up_steps=1, image_rate=1e-3, text_rate=1e-3, average_decay=0.5
        ),
        checkpoint_every_steps=2,
        evaluate_every_steps=10,
    )


def losses_of(folder: Path, settings: Settings) -> dict[int, float]:
    losses = {}
    train(settings, folder, listen=lambda progress: losses.update({progress.step: progress.loss}))
    losses.pop(0)
    return losses


def longer(settings: Settings, **options: Any) -> Settings:
    return replace(settings, optimiser=replace(settings.optimiser, steps=16, **options))


@pytest.mark.parametrize("start", ["open_clip:./vit", "hf:./hf"])
def test_training_a_clip_lowers_the_loss(folder: Path, settings: Settings, start: str) -> None:
    losses = losses_of(folder, replace(longer(settings), start=StartSettings(model=start)))
    assert np.mean([losses[step] for step in range(13, 17)]) < 0.8 * np.mean([losses[step] for step in range(1, 5)])


def test_a_killed_run_of_a_clip_goes_on_to_the_same_losses(folder: Path, settings: Settings, tmp_path: Path) -> None:
    whole = losses_of(folder, replace(settings, output=str(tmp_path / "whole")))

    def kill(progress: Progress) -> None:
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(settings, folder, listen=kill)
    rest = losses_of(folder, settings)
    assert list(rest) == [3, 4]  # from the checkpoint of step 2
    assert [rest[step] for step in rest] == pytest.approx([whole[step] for step in rest], rel=1e-4)


def tuned_and_start(folder: Path, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    start = clip.open_start(settings, folder).model.state_dict()
    train(settings, folder)
    return checkpoint.read_weights(Path(settings.output) / checkpoint.WEIGHTS)[1], start  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("mode", "moving"),
    [
        ("whole", {"image", "text", "log_scale"}),
        ("image_frozen", {"text", "log_scale"}),
        ("text_frozen", {"image", "log_scale"}),
    ],
)
def test_a_frozen_tower_of_a_clip_keeps_every_weight(
    folder: Path, settings: Settings, mode: Mode, moving: set[str]
) -> None:
    tuned, start = tuned_and_start(folder, replace(settings, mode=mode))
    moved = {name for name in start if not torch.equal(start[name], tuned[name])}
    assert {name.partition(".")[0] for name in moved} == moving
    assert "text.adapter.weight" not in moved


def test_batch_norms_of_a_frozen_tower_keep_their_statistics(folder: Path, settings: Settings, tmp_path: Path) -> None:
    clips.open_clip_folder(tmp_path / "resnet", "tiny-resnet")
    start = StartSettings(model=f"open_clip:{tmp_path / 'resnet'}")
    modes: tuple[tuple[Mode, bool], ...] = (("image_frozen", False), ("whole", True))
    for mode, moves in modes:
        output = str(tmp_path / mode)
        tuned, before = tuned_and_start(folder, replace(settings, mode=mode, start=start, output=output))
        statistics = [name for name in before if name.endswith("running_mean")]
        assert statistics
        assert any(not torch.equal(before[name], tuned[name]) for name in statistics) is moves


def test_the_query_adapter_of_a_clip_leaves_every_indexed_vector_as_it_is(
    folder: Path, settings: Settings, tmp_path: Path
) -> None:
    adapting = replace(longer(settings, head_rate=1e-2), mode="query_adapter")
    tuned, start = tuned_and_start(folder, adapting)
    moved = {name for name in start if not torch.equal(start[name], tuned[name])}
    assert moved == {"text.adapter.weight", "log_scale"}
    start_of_run = clip.open_start(settings, folder)
    export(start_of_run.model, start_of_run.documents, tmp_path / "start", "float32")
    before, after = OnnxEncoder(tmp_path / "start"), OnnxEncoder(tmp_path / "out")
    graphs = [(tmp_path / name / "visual" / "model.onnx").read_bytes() for name in ("start", "out")]
    assert graphs[0] == graphs[1]
    assert before.picture_fingerprint == after.picture_fingerprint
    texts = ["a photo of red 1", "a photo of blue 2"]
    assert (before.encode_texts(texts) * after.encode_texts(texts)).sum(axis=1).max() < 0.999


def test_the_adapter_is_in_the_exported_text_graph(folder: Path, settings: Settings, tmp_path: Path) -> None:
    train(replace(longer(settings, head_rate=1e-2), mode="query_adapter"), folder)
    description, state = checkpoint.read_weights(tmp_path / "out" / checkpoint.WEIGHTS)
    start = clip.described(description, settings)
    start.model.load_state_dict(state)
    ids = torch.tensor(start.ids(["a photo of red 1"]))
    with torch.no_grad():
        expected = start.model.eval().text(ids).numpy()
    assert float(OnnxEncoder(tmp_path / "out").encode_texts(["a photo of red 1"])[0] @ expected[0]) > 0.99999


def test_a_run_goes_on_from_the_folder_of_an_earlier_one(folder: Path, settings: Settings, tmp_path: Path) -> None:
    train(settings, folder)
    again = replace(settings, start=StartSettings(model=str(tmp_path / "out")), output=str(tmp_path / "again"))
    start = clip.open_start(again, folder).model.state_dict()
    tuned = checkpoint.read_weights(tmp_path / "out" / checkpoint.WEIGHTS)[1]
    assert all(torch.equal(start[name], tuned[name]) for name in tuned)
    frozen = replace(again, mode="image_frozen")
    train(frozen, folder)
    graphs = [(tmp_path / name / "visual" / "model.onnx").read_bytes() for name in ("out", "again")]
    assert graphs[0] == graphs[1]


def test_the_sigmoid_loss_starts_from_a_bias_under_which_a_picture_has_one_text(
    folder: Path, settings: Settings
) -> None:
    """The odds of all texts of a picture together are 1 to 1 then, as a softmax has them; with -10 they are not."""
    sigmoid = replace(settings, loss="sigmoid")
    prepared = prepare(sigmoid, folder, lambda note: None)
    runner = trainer(prepared.model, sigmoid, prepared.sources, prepared.anchors)
    with torch.no_grad():
        scores, _ = runner._scores(runner._batch(0))
        log_odds = (scores + prepared.model.bias).logsumexp(dim=1)
    assert abs(float(log_odds.mean())) < 0.05
    assert abs(float((scores - 10).logsumexp(dim=1).mean())) > 0.5


def test_the_sigmoid_loss_keeps_the_bias_that_a_model_comes_with(settings: Settings, tmp_path: Path) -> None:
    tiny.coloured_pictures(tmp_path)
    clips.transformers_folder(tmp_path / "siglip", "siglip")
    sigmoid = replace(settings, loss="sigmoid", start=StartSettings(model="hf:./siglip"))
    prepared = prepare(sigmoid, tmp_path, lambda note: None)
    before = prepared.model.bias.item()
    trainer(prepared.model, sigmoid, prepared.sources, prepared.anchors)
    assert prepared.model.bias.item() == before
    assert list(losses_of(tmp_path, sigmoid)) == [1, 2, 3, 4]


def test_a_step_sees_another_part_of_a_picture_each_time_and_the_same_one_when_repeated(folder: Path) -> None:
    how = preprocessing({"size": 64})
    files = PictureFiles([folder / "1.png", folder / "2.png"], how, 0.5)
    places = np.array([1, 0])
    one, same, other = (files.augmented(places, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (2, 3, 64, 64)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(640, 60), (60, 640), (100, 100)])
def test_a_crop_keeps_to_the_picture_and_to_its_least_area(size: tuple[int, int], mode: str) -> None:
    """Each pixel of this picture says where it was: red across, green down."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))
    how = preprocessing({"size": 64, "resize_mode": mode})
    for seed in range(30):
        crop = random_crop(image, how, 0.5, np.random.default_rng(seed))
        red, green, _ = np.asarray(crop).transpose(2, 0, 1).astype(int)
        wide, high = (int(red.max() - red.min()) / 255 * width, int(green.max() - green.min()) / 255 * height)
        whole = width * height if mode == "squash" else min(size) ** 2
        assert 0.35 * whole < wide * high < 1.05 * whole


def test_a_picture_that_cannot_be_read_is_left_out_and_counted(tmp_path: Path, settings: Settings) -> None:
    tiny.coloured_pictures(tmp_path)
    clips.open_clip_folder(tmp_path / "vit")
    (tmp_path / "1.png").write_bytes(b"not a picture")
    (tmp_path / "2.png").write_bytes((tmp_path / "4.png").read_bytes()[:200])
    prepared = prepare(settings, tmp_path, lambda note: None)
    assert prepared.dropped["captions.tsv"] == {"pictures cannot be read": 2}
    assert len(prepared.sources[0].pictures) == 14
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(SourceError, match=r"none of the 16 pictures of captions.tsv can be read"):
        prepare(settings, tmp_path, lambda note: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_absent_is_named_before_anything_is_read(folder: Path, settings: Settings) -> None:
    with pytest.raises(TrainingError, match=r"device is 'cuda' and torch finds no CUDA device .* device = \"auto\""):
        train(replace(settings, device="cuda"), folder)
    wanted: tuple[Device, ...] = ("auto", "cpu")
    assert [choose_device(one).type for one in wanted] == ["cpu", "cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_run_on_cuda_learns_and_its_checkpoint_goes_on_on_a_cpu(folder: Path, settings: Settings) -> None:
    losses = losses_of(folder, longer(replace(settings, device="cuda")))
    assert losses[16] < 0.8 * losses[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "open_clip:ViT-B-32/laion2b_s34b_b79k",
            "is not on this disk and offline mode is on.*hf download laion/CLIP-ViT",
        ),
        ("open_clip:ViT-B-32/laion3b", r"no weights 'laion3b' of ViT-B-32 .*openai, .*did you mean"),
        ("open_clip:ViT-B-23", r"no architecture 'ViT-B-23'.*ViT-B-32"),
        ("open_clip:./nowhere", r"nowhere holds no open_clip_config.json"),
        ("hf:openai/clip-vit-base-patch32", "not on this disk and offline mode is on.*hf download openai/clip-vit"),
        ("hf:./nowhere", r"nowhere holds no config.json"),
    ],
)
def test_a_start_that_is_not_here_is_named_at_once(folder: Path, name: str, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        clip.load_towers(name, Hub(offline=True), folder)


def test_weights_of_another_architecture_are_refused(folder: Path, tmp_path: Path) -> None:
    other = clips.open_clip_folder(tmp_path / "other", "tiny-resnet")
    shutil.copy(folder / "vit" / "open_clip_pytorch_model.bin", other)
    with pytest.raises(ModelDamaged, match=r"other cannot be loaded \(RuntimeError"):
        clip.load_towers(f"open_clip:{other}", Hub(), folder)
    damaged = clips.open_clip_folder(tmp_path / "damaged")
    (damaged / "open_clip_pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(ModelDamaged, match=r"damaged cannot be loaded"):
        clip.load_towers(f"open_clip:{damaged}", Hub(), folder)


def test_a_captioner_is_no_start(tmp_path: Path) -> None:
    captioner = clips.open_clip_folder(tmp_path / "coca", "tiny-coca")
    with pytest.raises(TrainingError, match=r"is a CoCa: expected two towers"):
        clip.start_from(clip.load_towers(f"open_clip:{captioner}", Hub()), Settings())


def test_a_transformers_folder_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = clips.transformers_folder(tmp_path / "hf") / "model.safetensors"
    tensors = load_file(weights)
    del tensors["text_projection.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelDamaged, match=r"lacks text_projection.weight"):
        clip.load_towers("hf:./hf", Hub(), tmp_path)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ModelNotFound, match=r"of type 'bert', expected one of clip, siglip"):
        clip.load_towers("hf:./hf", Hub(), tmp_path)


def test_what_only_the_recipe_of_mini_reads_is_refused(folder: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"start.model is empty, which only the recipe of a new bundled model reads"):
        prepare(replace(settings, start=StartSettings(model="")), folder, lambda note: None)
    for setting in ("soft_share", "classifier_weight"):
        (tmp_path / "run.toml").write_text(f"[teacher]\n{setting} = 0.2\n")
        with pytest.raises(UsageError, match=rf"teacher.{setting} is not a setting"):
            read_settings(tmp_path / "run.toml")


def test_a_model_of_pictures_alone_is_no_start(folder: Path, settings: Settings) -> None:
    from tests import towers

    name = towers.timm_state(folder)
    with pytest.raises(TrainingError, match=r"timm:test_resnet@.* is a .*: expected two towers"):
        prepare(replace(settings, start=StartSettings(model=name)), folder, lambda note: None)
