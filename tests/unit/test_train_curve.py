"""The picture of a run: what it shows, and that a killed run goes on with the same one."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="drawing needs the train extra")

from sightline.train import curve

HISTORY: list[dict[str, Any]] = [
    {"step": step, "loss": None if step == 0 else 2.0 - step / 60, "recalls": {}}
    | ({"recalls": {"shoes": {curve.RECALL: step / 100}, "general": {curve.RECALL: 0.6}}} if step % 20 == 0 else {})
    for step in range(61)
]
BLUE, RED = (0, 114, 178), (213, 94, 0)


def pixels_of(path: Path, colour: tuple[int, int, int]) -> tuple[int, int]:
    """How many pixels of the upper and of the lower half have exactly that colour."""
    with Image.open(path) as image:
        same = (np.asarray(image.convert("RGB")) == colour).all(axis=2)
    upper, lower = np.array_split(same, 2)
    return int(upper.sum()), int(lower.sum())


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels."""
    with Image.open(path) as image:
        return image.size


def test_the_loss_is_above_and_each_set_has_its_line_below(tmp_path: Path) -> None:
    path = tmp_path / "out" / curve.NAME
    curve.draw(HISTORY, path)
    assert size_of(path)[0] >= 1000
    assert min(pixels_of(path, BLUE)) > 200
    above, below = pixels_of(path, RED)
    assert (above == 0, below > 200) == (True, True)
    assert list(path.parent.iterdir()) == [path]


def test_without_measured_sets_only_the_loss_is_drawn(tmp_path: Path) -> None:
    curve.draw([{**entry, "recalls": {}} for entry in HISTORY], tmp_path / "loss.png")
    curve.draw(HISTORY, tmp_path / "both.png")
    heights = [size_of(tmp_path / name)[1] for name in ("loss.png", "both.png")]
    assert heights[0] < 0.7 * heights[1]
    assert sum(pixels_of(tmp_path / "loss.png", RED)) == 0


def test_the_model_that_was_kept_is_marked(tmp_path: Path) -> None:
    curve.draw(HISTORY, tmp_path / "run.png")
    curve.draw(HISTORY, tmp_path / "end.png", exported={"shoes": {curve.RECALL: 0.3}})
    assert (tmp_path / "run.png").read_bytes() != (tmp_path / "end.png").read_bytes()


def test_drawing_leaves_the_settings_of_others_alone(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    curve.draw(HISTORY, tmp_path / "run.png")
    assert dict(mpl.rcParams) == before


def test_a_disk_that_is_full_costs_the_picture_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        curve.draw(HISTORY, tmp_path / "taken" / curve.NAME)
    assert "the training goes on without it" in caplog.text


@pytest.mark.torch
def test_a_resumed_run_draws_the_curve_from_its_first_step(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the torch extra")
    pytest.importorskip("onnx", reason="export needs the train extra")
    from tests import tiny

    from sightline.train.config import DataSettings, OptimiserSettings, Settings, StartSettings
    from sightline.train.run import RECORD, Progress, train

    tiny.coloured_pictures(tmp_path)
    tiny.write(tmp_path / "start")
    pictures = DataSettings(table="captions.tsv", images=".", split="train")
    settings = Settings(
        output="out",
        precision="float32",
        data=(pictures,),
        measure=(replace(pictures, name="dev", split="dev"),),
        start=StartSettings(model="start"),
        optimiser=OptimiserSettings(steps=6, batch_size=8, warm_up_steps=1, window_slack=1),
        checkpoint_every_steps=2,
        evaluate_every_steps=2,
    )

    def kill(progress: Progress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path, listen=kill)
    during = (tmp_path / "out" / curve.NAME).read_bytes()
    train(settings, tmp_path)
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert [entry["step"] for entry in record["history"]] == list(range(7))
    after = (tmp_path / "out" / curve.NAME).read_bytes()
    curve.draw(record["history"], tmp_path / "again.png", exported=record["recalls"])
    assert after == (tmp_path / "again.png").read_bytes() != during
