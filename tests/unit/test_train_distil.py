"""Learning a small model from a large one's vectors: what is imitated, how a run goes on, and what it leaves."""

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime import InferenceSession
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs the torch extra")
pytest.importorskip("onnx", reason="export needs the train extra")
if find_spec("timm") is None:
    pytest.skip("the student's picture tower is timm's", allow_module_level=True)

from tests import tiny  # noqa: E402

from sightline.cli.main import main  # noqa: E402
from sightline.encoders.base import load_encoder, picture_fingerprint  # noqa: E402
from sightline.encoders.hub import Hub  # noqa: E402
from sightline.encoders.torch.libraries import library  # noqa: E402
from sightline.errors import TrainingError, UsageError  # noqa: E402
from sightline.train import checkpoint  # noqa: E402
from sightline.train.config import (  # noqa: E402
    DataSettings,
    Mode,
    OptimiserSettings,
    Settings,
    StartSettings,
    read_document,
    record,
)
from sightline.train.distil.imitate import Said, contrast, nearness  # noqa: E402
from sightline.train.distil.pictures import glimpse  # noqa: E402
from sightline.train.distil.run import LOG, WORDS, distil  # noqa: E402
from sightline.train.distil.settings import (  # noqa: E402
    DistilSettings,
    PictureSettings,
    StudentSettings,
    WordSettings,
)
from sightline.train.distil.student import open_student  # noqa: E402
from sightline.train.distil.teacher import read_teacher  # noqa: E402
from sightline.train.distil.texts import texts_of  # noqa: E402
from sightline.train.mini import restored  # noqa: E402
from sightline.train.model_folder import traced  # noqa: E402
from sightline.train.run import Outcome, Progress, train  # noqa: E402

pytestmark = pytest.mark.torch
COLOURS = {"red": (210, 30, 30), "green": (30, 190, 40), "blue": (40, 50, 210), "yellow": (230, 220, 40)}
DIM = 8
TOWER = "timm:test_efficientnet@tower.pt"


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of four colours with captions, the vectors of a teacher that knows colours, and a tiny picture tower."""
    folder = tmp_path_factory.mktemp("distil")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    rows, names, vectors = ["image\tsplit\tcaption"], [], []
    for number in range(24):
        colour = list(COLOURS)[number % len(COLOURS)]
        noise = rng.integers(-25, 25, (40, 40, 3))
        pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        name = f"{colour}-{number:02d}.png"
        Image.fromarray(pixels).save(folder / "pictures" / name)
        rows.append(f"{name}\t{'dev' if number >= 16 else 'train'}\ta {colour} picture")
        names.append(f"pictures/{name}")
        vectors.append(np.eye(DIM)[number % len(COLOURS)] + 0.5 + 0.05 * rng.normal(size=DIM))
    (folder / "captions.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    np.savez(folder / "vectors.npz", names=np.array(names), vectors=np.array(vectors, np.float32))
    tiny.write(folder / "start")
    torch.manual_seed(0)
    torch.save(library("timm").create_model("test_efficientnet").state_dict(), folder / "tower.pt")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> DistilSettings:
    train_set = DataSettings(name="train", table="captions.tsv", images="pictures", split="train")
    return DistilSettings(
        teacher_vectors="vectors.npz",
        output=str(tmp_path / "out"),
        precision="float32",
        device="cpu",
        evaluate_every_steps=3,
        checkpoint_every_steps=2,
        data=(train_set,),
        measure=(replace(train_set, name="dev", split="dev"),),
        student=StudentSettings(text_tower="start", picture_tower=TOWER, image_size=32, pooling_heads=2),
        words=WordSettings(head_steps=20, head_batch_size=16, steps=1, batch_size=4, others=8),
        pictures=PictureSettings(
            steps=6, decay_steps=2, warm_up_steps=1, batch_size=8, side=32, frozen_stages=1, neighbours=4
        ),
    )


def run(settings: DistilSettings, base: Path, until: int = 10**9) -> tuple[Outcome, dict[int, float], list[str]]:
    """The outcome, the loss of each step, and the notes; `until` kills the run at that step."""
    losses: dict[int, float] = {}
    notes: list[str] = []

    def listen(progress: Progress) -> None:
        if progress.note:
            notes.append(progress.note)
            return
        if progress.step == until:
            raise Killed
        losses[progress.step] = progress.loss

    return distil(settings, base, listen=listen), losses, notes


def student(base: Path) -> Any:
    return open_student(StudentSettings(picture_tower=TOWER, pooling_heads=2), base, DIM, Hub())


def test_the_command_makes_a_model_that_searches_without_torch(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = made / "recipe.toml"
    recipe.write_text(
        f"""
        teacher_vectors = "vectors.npz"
        output = "{tmp_path / "model"}"
        [[data]]
        name = "colours"
        table = "captions.tsv"
        images = "pictures"
        split = "train"
        [[measure]]
        name = "dev"
        table = "captions.tsv"
        images = "pictures"
        split = "dev"
        [student]
        text_tower = "start"
        picture_tower = "{TOWER}"
        image_size = 32
        pooling_heads = 2
        [words]
        head_steps = 30
        head_batch_size = 16
        steps = 1
        batch_size = 4
        [pictures]
        steps = 99
        decay_steps = 20
        warm_up_steps = 2
        batch_size = 16
        side = 32
        frozen_stages = 0
        trains_depthwise = true
        rate = 3e-3
        head_rate = 3e-3
        average_decay = 0.9
        """
    )
    assert main(["train", str(recipe), "--steps", "60"]) == 0
    assert "use it: sightline index FOLDER --model" in capsys.readouterr().out
    index = str(tmp_path / "colours.index")
    assert main(["index", str(made / "pictures"), "--index", index, "--model", str(tmp_path / "model")]) == 0
    capsys.readouterr()
    assert main(["search", "a blue picture", "--index", index, "-k", "3", "--json"]) == 0
    assert capsys.readouterr().out.count("blue-") >= 3


def test_pictures_that_measure_are_not_learned_from(made: Path, settings: DistilSettings) -> None:
    outcome, _, notes = run(settings, made)
    assert "16 pictures to learn from, 8 kept apart" in notes
    assert set(outcome.recalls) == {"dev"}
    assert {"cosine", "text_to_image@10"} <= outcome.recalls["dev"].keys()


def test_held_out_pictures_are_not_learned_from(made: Path, settings: DistilSettings) -> None:
    held = replace(settings, measure=(), data=(replace(settings.data[0], hold_out_percent=40),))
    _, _, notes = run(held, made)
    learned = int(notes[0].split()[0])
    assert 16 < learned < 24  # those of split dev are captioned by no set here


def test_a_set_that_holds_pictures_out_is_measured_on_those(made: Path, settings: DistilSettings) -> None:
    whole = DataSettings(name="held", table="captions.tsv", images="pictures", hold_out_percent=40)
    _, _, notes = run(replace(settings, measure=(whole,), data=(whole,)), made)
    learned, apart = (int(number) for number in re.findall(r"\d+", notes[0]))
    assert (learned, apart) == (24 - apart, apart)
    assert learned > apart > 1
    assert f"held: {apart} of {apart} pictures decoded" in notes


def test_texts_may_pull_at_the_pictures_too(made: Path, settings: DistilSettings, tmp_path: Path) -> None:
    pictures = replace(settings.pictures, texts_weight=0.5, texts=6)
    _, plain, _ = run(settings, made)
    _, pulled, _ = run(replace(settings, output=str(tmp_path / "pulled"), pictures=pictures), made)
    assert pulled[1] > plain[1]
    with pytest.raises(Killed):
        run(replace(settings, output=str(tmp_path / "again"), pictures=pictures), made, until=5)
    _, rest, _ = run(replace(settings, output=str(tmp_path / "again"), pictures=pictures), made)
    assert [rest[step] for step in rest] == pytest.approx([pulled[step] for step in rest], rel=1e-3)


def test_texts_may_learn_again_where_the_student_sees_pictures(
    made: Path, settings: DistilSettings, tmp_path: Path
) -> None:
    def nearness_to_own_pictures(words: WordSettings, name: str) -> float:
        run(replace(settings, words=words, pictures=young, output=str(tmp_path / name)), made)
        encoder = load_encoder(str(tmp_path / name))
        files = sorted((made / "pictures").iterdir())
        pictures = encoder.encode_images(np.stack([encoder.preprocess(Image.open(file)) for file in files]))
        texts = encoder.encode_texts([f"a {colour} picture" for colour in sorted(COLOURS)])
        scores = (texts @ pictures.T).reshape(4, 4, 6).mean(axis=2)  # files are in the order of colours
        return float(scores.trace() / 4 - scores.mean())

    young = replace(settings.pictures, steps=1, decay_steps=1)  # sees colours, but not as the teacher does
    words = settings.words
    again = replace(words, again_steps=60, rate=1e-3, head_rate=5e-2, warm_up_steps=1)
    assert nearness_to_own_pictures(again, "again") > 1.1 * nearness_to_own_pictures(words, "once")


def test_contrast_is_least_where_pictures_lie_at_their_own_texts() -> None:
    texts = torch.eye(4)
    own = [np.array(some, np.int64) for some in ([0], [1], [2], [])]
    said = Said(texts, own, own, 10.0)
    places = np.array([0, 1, 2, 3])

    def loss(vectors: Any) -> float:
        return float(contrast(vectors, places, said, 8, np.random.default_rng(0)))

    assert loss(torch.eye(4)) < 0.1 < 5 < loss(torch.eye(4).roll(1, dims=0))
    right = [np.array([0, 1]), np.array([0, 1]), np.array([2]), np.array([], np.int64)]
    swapped, chance = texts[[1, 0, 2, 3]], np.random.default_rng(0)
    assert float(contrast(swapped, places, Said(texts, own, right, 10.0), 0, chance)) < 1 < loss(swapped)
    assert float(contrast(texts[[3, 3, 3, 3]], np.array([3, 3]), said, 0, np.random.default_rng(0))) == 0


def test_a_killed_run_goes_on_to_the_same_losses(made: Path, settings: DistilSettings, tmp_path: Path) -> None:
    _, whole, _ = run(replace(settings, output=str(tmp_path / "whole")), made)
    with pytest.raises(Killed):
        run(settings, made, until=5)
    words = (tmp_path / "out" / WORDS).read_bytes()
    _, rest, notes = run(settings, made)
    assert "going on from step 4" in notes
    assert list(rest) == [5, 6]
    assert [rest[step] for step in rest] == pytest.approx([whole[step] for step in rest], rel=1e-3)
    assert (tmp_path / "out" / WORDS).read_bytes() == words


def test_a_finished_run_can_be_prolonged_but_not_changed(made: Path, settings: DistilSettings) -> None:
    run(settings, made)
    _, losses, _ = run(replace(settings, pictures=replace(settings.pictures, steps=8, side=40)), made)
    assert list(losses) == [7, 8]
    with pytest.raises(TrainingError, match="pooling_heads: 2 became 0"):
        run(replace(settings, student=replace(settings.student, pooling_heads=0)), made)


def test_every_measurement_is_a_line_with_its_time(made: Path, settings: DistilSettings, tmp_path: Path) -> None:
    run(settings, made)
    lines = (tmp_path / "out" / LOG).read_text().splitlines()
    assert [f'"step": {step}' in line for step, line in zip((3, 6), lines, strict=True)] == [True, True]
    assert all('"time": "20' in line and '"pictures_per_s"' in line for line in lines)
    assert (tmp_path / "out" / checkpoint.NAME).is_file()


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_exported_model_sees_as_the_student(
    made: Path, settings: DistilSettings, tmp_path: Path, precision: Any
) -> None:
    run(replace(settings, precision=precision), made)
    encoder = load_encoder(str(tmp_path / "out"))
    assert encoder.dim == DIM
    texts = np.asarray(encoder.encode_texts(["a red picture", "red"]))
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-3)
    with Image.open(made / "pictures" / "red-00.png") as image:
        vector = np.asarray(encoder.encode_images(encoder.preprocess(image.convert("RGB"))[None])[0])
    assert vector.shape == (DIM,)
    assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-3)


def test_norms_in_convolutions_change_nothing_and_are_gone_from_the_plain_student(made: Path) -> None:
    one = student(made)
    tower = library("timm").create_model("test_efficientnet")
    tower.load_state_dict(torch.load(made / "tower.pt", weights_only=True))
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        pixels = (pictures.float() - one.mean) * one.scale
        before, after = tower.eval().forward_features(pixels), one.eval().tower.forward_features(pixels)
        torch.testing.assert_close(before, after, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(one.plain()(pictures), one(pictures), atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in one.modules())
    assert all(".parametrizations." not in name for name in one.plain().state_dict())


def test_uneven_padding_is_left_to_the_convolutions(made: Path, settings: DistilSettings, tmp_path: Path) -> None:
    torch.save(library("timm").create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "lite.pt")
    whole = replace(settings.student, picture_tower=f"timm:tf_efficientnet_lite0@{tmp_path / 'lite.pt'}")
    one = open_student(whole, made, DIM, Hub()).eval()
    plain = one.plain()
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(plain(pictures), one(pictures), atol=1e-4, rtol=1e-4)
    graph = traced(plain, {"image": pictures}, {0: "batch"}, tmp_path)
    assert not [node.name for node in graph.graph.node if node.op_type in ("Pad", "Shape") and "conv" in node.name]
    session = InferenceSession(graph.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"image": pictures.numpy()})[0], one(pictures).detach(), atol=1e-3)


@pytest.fixture(scope="module")
def grown(made: Path) -> Path:
    """A folder that a distillation with the bundled model's picture tower wrote, at the head of its training."""
    torch.save(library("timm").create_model("tf_efficientnet_lite0").state_dict(), made / "lite.pt")
    how = StudentSettings(
        text_tower="start", picture_tower="timm:tf_efficientnet_lite0@lite.pt", image_size=64, pooling_heads=2
    )
    train_set = DataSettings(name="train", table="captions.tsv", images="pictures", split="train")
    settings = DistilSettings(
        teacher_vectors="vectors.npz",
        output="grown",
        precision="float32",
        device="cpu",
        data=(train_set,),
        student=how,
        words=WordSettings(head_steps=5, head_batch_size=8, steps=1, batch_size=4, others=8),
        pictures=PictureSettings(steps=1, decay_steps=1, batch_size=4, side=32, neighbours=4),
    )
    run(settings, made)
    return made / "grown"


def test_the_folder_holds_what_the_student_sees(made: Path, grown: Path) -> None:
    how = StudentSettings(picture_tower="timm:tf_efficientnet_lite0@lite.pt", pooling_heads=2)
    one = open_student(how, made, DIM, Hub())
    state = torch.load(grown / checkpoint.NAME, weights_only=True)["state"]["pictures"]
    one.load_state_dict(state["average"], strict=False)
    restored_one = restored(grown, Settings()).model.image.eval()
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(restored_one(pictures), one.eval()(pictures), atol=1e-4, rtol=1e-4)
        odd = torch.randint(0, 256, (2, 3, 50, 50), dtype=torch.uint8)
        torch.testing.assert_close(restored_one(odd), one(odd), atol=1e-4, rtol=1e-4)
    seen = np.asarray(load_encoder(str(grown)).encode_images(pictures.numpy()))
    np.testing.assert_allclose(seen, one(pictures).detach(), atol=1e-3)


@pytest.mark.parametrize("mode", ["whole", "query_adapter"])
def test_a_model_that_was_distilled_can_be_trained_further(made: Path, grown: Path, tmp_path: Path, mode: Mode) -> None:
    optimiser = OptimiserSettings(steps=3, batch_size=4, warm_up_steps=1, window_slack=1, head_rate=3e-3)
    settings = Settings(
        output=str(tmp_path / "out"),
        mode=mode,
        precision="int8",
        data=(DataSettings(table="captions.tsv", images="pictures", split="train"),),
        start=StartSettings(model="grown"),
        optimiser=optimiser,
    )
    train(settings, made)
    before, after = load_encoder(str(grown)), load_encoder(str(tmp_path / "out"))
    assert after.dim == DIM
    assert (picture_fingerprint(after) == picture_fingerprint(before)) == (mode == "query_adapter")
    again = restored(tmp_path / "out", Settings()).model.image
    assert again.network.pads_unevenly


def test_frozen_stages_do_not_move(made: Path) -> None:
    one = student(made)
    one.freeze(1, trains_depthwise=False)
    moving = {name for name, value in one.named_parameters() if value.requires_grad}
    assert "projection.weight" in moving
    assert not any(name.startswith(("tower.conv_stem", "tower.blocks.0")) for name in moving)
    assert not any("conv_dw" in name for name in moving)
    assert any(name.startswith("tower.blocks.1") for name in moving)
    one.freeze(0, trains_depthwise=True)
    assert all(value.requires_grad for value in one.parameters())
    with pytest.raises(TrainingError, match="frozen_stages is 99"):
        one.freeze(99, trains_depthwise=True)


def test_teacher_vectors_are_centred_and_of_length_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(6, 4)).astype(np.float32) + 3
    names = [f"{number}.jpg" for number in range(6)]
    np.savez(tmp_path / "plain.npz", names=np.array(names), vectors=vectors)
    scales = np.abs(vectors).max(axis=1) / 127
    np.savez(tmp_path / "codes.npz", codes=np.round(vectors / scales[:, None]).astype(np.int8), scales=scales)
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    plain, coded = read_teacher(tmp_path / "plain.npz"), read_teacher(tmp_path / "codes.npz", tmp_path / "names.txt")
    assert plain.names == coded.names == tuple(names)
    torch.testing.assert_close(plain.vectors.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(plain.vectors, coded.vectors, atol=0.15, rtol=0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    torch.testing.assert_close(plain.centre, torch.from_numpy(unit.mean(axis=0)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"vectors": np.ones((2, 3))}, "has no array 'names'"),
        ({"names": np.array(["a"]), "vectors": np.ones((2, 3))}, r"vectors of shape \(2, 3\) for 1 names"),
        ({"names": np.array(["a", "b"]), "vectors": np.array([[1.0, 0], [0, 0]])}, "such as that of b"),
    ],
)
def test_vectors_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "vectors.npz", **arrays)
    with pytest.raises(TrainingError, match=message):
        read_teacher(tmp_path / "vectors.npz")


def test_a_glimpse_is_a_part_of_the_picture_and_repeats_with_its_seed() -> None:
    picture = torch.arange(3 * 50 * 50).remainder(256).to(torch.uint8).reshape(1, 3, 50, 50)

    def seen(seed: int) -> Any:
        chance = np.random.default_rng(seed)
        return glimpse(picture, 24, smallest_crop=0.5, blurred_share=0.5, chance=chance)

    assert seen(1).shape == (1, 3, 24, 24)
    assert seen(1).dtype == torch.uint8
    assert torch.equal(seen(1), seen(1))
    assert not torch.equal(seen(1), seen(2))


def test_nearness_is_least_where_the_student_sees_as_the_teacher() -> None:
    rng = torch.Generator().manual_seed(0)
    wanted, others = (torch.nn.functional.normalize(torch.randn(5, 6, generator=rng), dim=1) for _ in range(2))
    turned = torch.nn.functional.normalize(wanted + 0.5 * torch.randn(5, 6, generator=rng), dim=1)
    assert nearness(wanted, wanted, others, 0.1) < nearness(turned, wanted, others, 0.1)


def test_a_text_is_right_for_every_picture_that_has_it(made: Path) -> None:
    places = {name: place for place, name in enumerate(read_teacher(made / "vectors.npz").names)}
    texts = texts_of([DataSettings(table="captions.tsv", images="pictures")], made, made, places)
    assert sorted(texts.texts) == sorted(f"a {colour} picture" for colour in COLOURS)
    red = texts.texts.index("a red picture")
    assert list(texts.right[red]) == [0, 4, 8, 12, 16, 20]
    numbers, drawn = texts.draw(40, np.random.default_rng(0))
    assert all(place in texts.right[number] for number, place in zip(numbers, drawn, strict=True))


def test_a_setting_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('teacher_vectors = "v.npz"\n[pictures]\nstep = 3\n')
    with pytest.raises(UsageError, match=r"pictures\.step is not a setting"):
        record(DistilSettings, read_document(tmp_path / "recipe.toml"))


def test_another_family_of_picture_towers_is_refused(made: Path) -> None:
    with pytest.raises(TrainingError, match="picture_tower is 'resnet50'"):
        open_student(StudentSettings(picture_tower="resnet50"), made, DIM, Hub())
