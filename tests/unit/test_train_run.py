"""A training run: what it writes, how it goes on after a kill, and when it refuses."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")
pytest.importorskip("onnx", reason="export needs the train extra")

from tests import tiny  # noqa: E402

from sightline.errors import TrainingError, UsageError  # noqa: E402
from sightline.train import checkpoint  # noqa: E402
from sightline.train.config import (  # noqa: E402
    DataSettings,
    Mode,
    OptimiserSettings,
    Settings,
    StartSettings,
    read_settings,
)
from sightline.train.run import RECORD, Progress, train  # noqa: E402

pytestmark = pytest.mark.torch


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.coloured_pictures(tmp_path)
    tiny.write(tmp_path / "start")
    return tmp_path


@pytest.fixture
def settings() -> Settings:
    train_set = DataSettings(table="captions.tsv", images=".", split="train")
    return Settings(
        output="out",
        precision="float32",
        data=(train_set,),
        measure=(replace(train_set, name="dev", split="dev"),),
        start=StartSettings(model="start"),
        optimiser=OptimiserSettings(
            steps=6, batch_size=8, warm_up_steps=1, window_slack=1, dropout=0.1, average_decay=0.5, head_rate=3e-3
        ),
        checkpoint_every_steps=2,
        evaluate_every_steps=3,
    )


def losses_of(folder: Path, settings: Settings, **keywords: Any) -> dict[int, float]:
    losses = {}
    train(settings, folder, listen=lambda progress: losses.update({progress.step: progress.loss}), **keywords)
    losses.pop(0)
    return losses


def test_a_run_ends_in_a_model_folder_that_says_how_it_was_made(folder: Path, settings: Settings) -> None:
    outcome = train(settings, folder)
    assert tiny.restore(outcome.folder).shape == tiny.shape()
    record = json.loads((folder / "out" / RECORD).read_text())
    assert record["settings"]["seed"] == settings.seed
    assert [entry["step"] for entry in record["history"]] == [0, 1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in record["history"] if entry["recalls"]] == [0, 3, 6]
    assert record["recalls"]["dev"].keys() == outcome.recalls["dev"].keys()
    assert not (folder / "out" / checkpoint.NAME).exists()


def test_training_lowers_the_loss(folder: Path, settings: Settings) -> None:
    longer = replace(settings, optimiser=replace(settings.optimiser, steps=30, dropout=0.0))
    losses = losses_of(folder, longer)
    assert np.mean([losses[step] for step in range(26, 31)]) < 0.9 * np.mean([losses[step] for step in range(1, 6)])


def test_a_killed_run_goes_on_to_the_same_losses_and_weights(folder: Path, settings: Settings) -> None:
    whole = losses_of(folder, replace(settings, output="whole"))

    def kill(progress: Progress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(settings, folder, listen=kill)
    rest = losses_of(folder, settings)
    assert list(rest) == [5, 6]  # from the checkpoint of step 4
    assert [rest[step] for step in rest] == pytest.approx([whole[step] for step in rest], rel=1e-4)
    one, other = (tiny.state_of(tiny.restore(folder / name).text) for name in ("whole", "out"))
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], atol=1e-3, err_msg=name)


def test_a_run_does_not_go_on_with_other_settings_and_names_them(folder: Path, settings: Settings) -> None:
    def kill(progress: Progress) -> None:
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(settings, folder, listen=kill)
    with pytest.raises(TrainingError, match=r"optimiser.steps: 6 became 9; seed: 1 became 2"):
        train(replace(settings, seed=2, optimiser=replace(settings.optimiser, steps=9)), folder)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(folder: Path, settings: Settings) -> None:
    wild = replace(settings, optimiser=replace(settings.optimiser, head_rate=float("inf")))
    with pytest.raises(TrainingError, match="expected a number; lower the rates"):
        train(replace(wild, checkpoint_every_steps=1), folder)
    kept = checkpoint.load(folder / "out", json.loads(json.dumps(_document(wild, every=1))))
    assert kept is not None
    assert kept["trainer"]["step"] >= 1


def _document(settings: Settings, *, every: int) -> dict[str, Any]:
    return asdict(replace(settings, checkpoint_every_steps=every))


@pytest.mark.parametrize(
    ("mode", "still"), [("query_adapter", "image"), ("image_frozen", "image"), ("text_frozen", "text")]
)
def test_a_frozen_tower_keeps_every_weight(folder: Path, settings: Settings, mode: Mode, still: str) -> None:
    train(replace(settings, mode=mode), folder)
    before, after = tiny.restore(folder / "start"), tiny.restore(folder / "out")
    other = "text" if still == "image" else "image"
    assert _largest_move(getattr(before, still), getattr(after, still)) == 0
    images = [(folder / name / "visual" / "model.onnx").read_bytes() for name in ("start", "out")]
    assert (images[0] == images[1]) == (still == "image")
    assert _largest_move(getattr(before, other), getattr(after, other)) > 1e-4


def test_the_query_adapter_moves_the_last_text_map_alone(folder: Path, settings: Settings) -> None:
    train(replace(settings, mode="query_adapter"), folder)
    before, after = (tiny.state_of(tiny.restore(folder / name).text) for name in ("start", "out"))
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {"projection.weight"}


def _largest_move(before: Any, after: Any) -> float:
    pairs = zip(tiny.state_of(before).values(), tiny.state_of(after).values(), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_stops_the_run_and_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, {"step": 4}, {"seed": 1})
    monkeypatch.setattr("sightline.files.uuid4", lambda: UUID(int=0))
    (tmp_path / f".checkpoint-{'0' * 12}.part.pt").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"cannot be written .* goes on from the last good one"):
        checkpoint.save(tmp_path, {"step": 6, "large": torch.zeros(100_000)}, {"seed": 1})
    assert checkpoint.load(tmp_path, {"seed": 1}) == {"step": 4}


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="is damaged"):
        checkpoint.load(tmp_path, {})


def test_both_losses_train(folder: Path, settings: Settings) -> None:
    assert len(losses_of(folder, replace(settings, loss="sigmoid"))) == 6


def test_a_model_that_forgets_is_not_exported_unless_told_to(folder: Path, settings: Settings) -> None:
    general = DataSettings(name="general", table="captions.tsv", images=".", split="dev")
    strict = replace(settings, general=general, largest_general_loss=-2.0)
    with pytest.raises(TrainingError, match="no mixture of start and tuned weights"):
        train(strict, folder)
    assert not (folder / "out" / "config.json").exists()
    outcome = train(strict, folder, may_forget=True)
    assert [point.share for point in outcome.points] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("seed = 3\n[optimiser]\nsteps = 'many'\n")
    with pytest.raises(UsageError, match=r"optimiser.steps is 'many': expected int"):
        read_settings(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text("sede = 3\n")
    with pytest.raises(UsageError, match="sede is not a setting"):
        read_settings(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text("mode = 'image'\n")
    with pytest.raises(UsageError, match="mode is 'image': expected 'whole'"):
        read_settings(tmp_path / "run.toml")


def test_settings_come_as_written(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        "mode = 'text_frozen'\n[[data]]\ntable = 'a.tsv'\nshare = 2\n[data.names]\nx = 'y'\n"
        "[general]\ntable = 'g.tsv'\n"
    )
    read = read_settings(tmp_path / "run.toml")
    assert (read.mode, read.data[0].share, read.data[0].names) == ("text_frozen", 2.0, {"x": "y"})
    assert read.general is not None
    assert read.general.table == "g.tsv"


def test_an_older_name_of_a_setting_goes_on_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[optimiser]\nstart_pull = 0.2\n")
    assert read_settings(tmp_path / "run.toml").optimiser.l2_to_start == 0.2
