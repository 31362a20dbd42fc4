import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")
pytest.importorskip("onnx", reason="export needs the train extra")

from sightline.errors import TrainingError, UsageError  # noqa: E402
from sightline.train import checkpoint  # noqa: E402
from sightline.train.config import DataSettings, OptimiserSettings, Settings, StartSettings, read_settings  # noqa: E402
from sightline.train.export import export, state_of  # noqa: E402
from sightline.train.restore import restore  # noqa: E402
from sightline.train.run import RECORD, train  # noqa: E402
from tests import tiny  # noqa: E402

pytestmark = pytest.mark.torch


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture
def folder(tmp_path):
    tiny.coloured_pictures(tmp_path)
    export(tiny.model(), tiny.tokenizer(), tmp_path / "start")
    return tmp_path


@pytest.fixture
def settings():
    train_set = DataSettings(table="captions.tsv", images=".", split="train")
    return Settings(
        output="out",
        data=(train_set,),
        measure=(replace(train_set, name="dev", split="dev"),),
        start=StartSettings(model="start"),
        optimiser=OptimiserSettings(
            steps=6, batch_size=8, warm_up_steps=1, window_slack=1, dropout=0.1, average_decay=0.5, head_rate=3e-3
        ),
        checkpoint_every_steps=2,
        evaluate_every_steps=3,
    )


def losses_of(folder, settings, **keywords):
    losses = {}
    train(settings, folder, listen=lambda progress: losses.update({progress.step: progress.loss}), **keywords)
    losses.pop(0)
    return losses


def test_a_run_ends_in_a_model_folder_that_says_how_it_was_made(folder, settings):
    outcome = train(settings, folder)
    assert restore(outcome.folder)[0].shape == tiny.shape()
    record = json.loads((folder / "out" / RECORD).read_text())
    assert record["settings"]["seed"] == settings.seed
    assert [entry["step"] for entry in record["history"]] == [1, 2, 3, 4, 5, 6]
    assert record["recalls"]["dev"].keys() == outcome.recalls["dev"].keys()
    assert not (folder / "out" / checkpoint.NAME).exists()


def test_training_lowers_the_loss(folder, settings):
    longer = replace(settings, optimiser=replace(settings.optimiser, steps=30, dropout=0.0))
    losses = losses_of(folder, longer)
    assert np.mean([losses[step] for step in range(26, 31)]) < 0.9 * np.mean([losses[step] for step in range(1, 6)])


def test_a_killed_run_goes_on_to_the_same_losses_and_weights(folder, settings):
    whole = losses_of(folder, replace(settings, output="whole"))

    def kill(progress):
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(settings, folder, listen=kill)
    rest = losses_of(folder, settings)
    assert list(rest) == [5, 6]  # from the checkpoint of step 4
    assert [rest[step] for step in rest] == pytest.approx([whole[step] for step in rest], rel=1e-4)
    one, other = (state_of(restore(folder / name)[0].text) for name in ("whole", "out"))
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], atol=1e-3, err_msg=name)


def test_a_run_does_not_go_on_with_other_settings_and_names_them(folder, settings):
    def kill(progress):
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(settings, folder, listen=kill)
    with pytest.raises(TrainingError, match=r"optimiser.steps: 6 became 9; seed: 1 became 2"):
        train(replace(settings, seed=2, optimiser=replace(settings.optimiser, steps=9)), folder)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(folder, settings):
    wild = replace(settings, optimiser=replace(settings.optimiser, head_rate=float("inf")))
    with pytest.raises(TrainingError, match="expected a number; lower the rates"):
        train(replace(wild, checkpoint_every_steps=1), folder)
    kept = checkpoint.load(folder / "out", json.loads(json.dumps(_document(wild, every=1))))
    assert kept is not None
    assert kept["trainer"]["step"] >= 1


def _document(settings, *, every):
    from sightline.train.config import as_document

    return as_document(replace(settings, checkpoint_every_steps=every))


@pytest.mark.parametrize(
    ("mode", "still"), [("query_adapter", "image"), ("image_frozen", "image"), ("text_frozen", "text")]
)
def test_a_frozen_tower_keeps_every_weight(folder, settings, mode, still):
    train(replace(settings, mode=mode), folder)
    # Float start, 8-bit result: a weight that did not move differs by half a step at most.
    before, after = restore(folder / "start")[0], restore(folder / "out")[0]
    other = "text" if still == "image" else "image"
    assert _largest_move(getattr(before, still), getattr(after, still)) <= 0.51
    assert _largest_move(getattr(before, other), getattr(after, other)) > 0.6


def _largest_move(before, after):
    """Of any matrix, in steps of its 8-bit grid."""
    pairs = zip(state_of(before).values(), state_of(after).values(), strict=True)
    return max(np.abs(a - b).max() / (np.abs(a).max() / 127) for a, b in pairs if a.ndim > 1)


def test_both_losses_train(folder, settings):
    assert len(losses_of(folder, replace(settings, loss="sigmoid"))) == 6


def test_a_model_that_forgets_is_not_exported_unless_told_to(folder, settings):
    general = DataSettings(name="general", table="captions.tsv", images=".", split="dev")
    strict = replace(settings, general=general, largest_general_loss=-2.0)
    with pytest.raises(TrainingError, match="no mixture of start and tuned weights"):
        train(strict, folder)
    assert not (folder / "out" / "config.json").exists()
    outcome = train(strict, folder, may_forget=True)
    assert [point.share for point in outcome.points] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_wrong_setting_is_named(tmp_path):
    (tmp_path / "run.toml").write_text("seed = 3\n[optimiser]\nsteps = 'many'\n")
    with pytest.raises(UsageError, match=r"optimiser.steps is 'many': expected int"):
        read_settings(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text("sede = 3\n")
    with pytest.raises(UsageError, match="sede is not a setting"):
        read_settings(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text("mode = 'image'\n")
    with pytest.raises(UsageError, match="mode is 'image': expected 'whole'"):
        read_settings(tmp_path / "run.toml")


def test_settings_come_as_written(tmp_path):
    (tmp_path / "run.toml").write_text(
        "mode = 'text_frozen'\n[[data]]\ntable = 'a.tsv'\nshare = 2\n[data.names]\nx = 'y'\n[general]\ntable = 'g.tsv'\n"
    )
    read = read_settings(tmp_path / "run.toml")
    assert (read.mode, read.data[0].share, read.data[0].names) == ("text_frozen", 2.0, {"x": "y"})
    assert read.general is not None
    assert read.general.table == "g.tsv"
