"""The query adapter from end to end: trained on top of a model, it searches the index which that model built."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the torch extra")
pytest.importorskip("onnx", reason="export needs the train extra")

from tests import tiny

from sightline.encoders.onnx import OnnxEncoder
from sightline.errors import IndexMismatch
from sightline.index import Index
from sightline.train.config import DataSettings, Mode, OptimiserSettings, Settings, StartSettings
from sightline.train.run import train

pytestmark = pytest.mark.torch
TRAIN = DataSettings(table="photos/captions.tsv", images="photos", split="train")
SETTINGS = Settings(
    output="adapted",
    precision="float32",
    data=(TRAIN,),
    start=StartSettings(model="start"),
    optimiser=OptimiserSettings(
        steps=4, batch_size=8, warm_up_steps=1, window_slack=1, average_decay=0, head_rate=0.01
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, a model, and an index that the model built."""
    (tmp_path / "photos").mkdir()
    tiny.coloured_pictures(tmp_path / "photos")
    tiny.write(tmp_path / "start")
    with Index(str(tmp_path / "photos.index"), model=str(tmp_path / "start")) as index:
        assert index.add(tmp_path / "photos").encoded > 0
    return tmp_path


@pytest.mark.parametrize("mode", ["query_adapter", "image_frozen"])
def test_what_was_trained_searches_the_index_of_its_start(folder: Path, mode: Mode) -> None:
    train(replace(SETTINGS, mode=mode), folder)
    start, adapted = OnnxEncoder(folder / "start"), OnnxEncoder(folder / "adapted")
    query, before = (encoder.encode_texts(["a red photo"])[0] for encoder in (adapted, start))
    assert np.abs(query - before).max() > 1e-3
    with Index(str(folder / "photos.index"), model=str(folder / "adapted")) as index:
        count = index.count()
        hits = index.search("a red photo", k=count)
        expected = [float(query @ index.record(hit.uri).vector) for hit in hits]
        assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-5)
        assert (index.add(folder / "photos").encoded, index.count()) == (0, count)


def test_a_model_whose_pictures_moved_is_refused(folder: Path) -> None:
    train(replace(SETTINGS, mode="whole"), folder)
    with pytest.raises(IndexMismatch, match="was built with 'start', not 'adapted'"):
        _ = Index(str(folder / "photos.index"), model=str(folder / "adapted")).encoder
