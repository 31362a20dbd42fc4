"""A table of captions from a folder: written by batches, gone on with after a kill, told what failed."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from tests.pictures import encoded, scene, write

pytest.importorskip("torch", reason="captioning needs the caption extra")

from sightline.encoders.hub import Hub
from sightline.errors import EncoderError, HubUnreachable, ModelNotFound, SourceError, UsageError
from sightline.evaluate import judgements
from sightline.train.captions import BLIP, Captioner, CaptionProgress, caption, coca, load_captioner
from sightline.train.config import DataSettings
from sightline.train.data import read_set

pytestmark = pytest.mark.torch
PICTURES = 7


@dataclass(slots=True)
class Namer:
    """Says the size of a picture and the mean of its red; counts what it was shown."""

    image_size: int = 32
    shown: list[int] = field(default_factory=list)

    def captions(self, pictures: Sequence[Image.Image]) -> list[str]:
        self.shown.append(len(pictures))
        return [f" a picture\tof {picture.width} x\n{picture.height} " for picture in pictures]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(PICTURES):
        write(folder / ("holiday" if number % 2 else "."), f"{number}.png", encoded(scene(number, (64, 48)), "PNG"))
    return folder


def rows(table: Path) -> list[list[str]]:
    return [line.split("\t") for line in table.read_text("utf-8").splitlines()]


def test_every_picture_gets_a_row_that_evaluation_and_training_read(photos: Path) -> None:
    table = photos.parent / "captions.tsv"
    done = caption(photos, table, Namer(), batch_size=3)
    assert (done.total, done.written, done.kept, done.failed) == (PICTURES, PICTURES, 0, ())
    assert rows(table)[0] == ["image", "caption"]
    assert sorted(rows(table)[1:])[0] == ["0.png", "a picture of 64 x 48"]
    judged = judgements.load(table, images=photos)
    assert (len(judged.images), judged.missing) == (PICTURES, 0)
    trained = read_set(DataSettings(table="captions.tsv", images="photos"), photos.parent)
    assert (len(trained.pictures), trained.dropped) == (PICTURES, {})


def test_a_second_run_captions_only_what_is_new(photos: Path) -> None:
    table, namer = photos.parent / "captions.tsv", Namer()
    caption(photos, table, namer)
    before = table.read_text()
    write(photos, "new.png", encoded(scene(50, (64, 48)), "PNG"))
    done = caption(photos, table, namer)
    assert (done.written, done.kept, namer.shown[-1]) == (1, PICTURES, 1)
    assert table.read_text() == before + "new.png\ta picture of 64 x 48\n"


def test_a_kill_loses_a_batch_at_most(photos: Path) -> None:
    table = photos.parent / "captions.tsv"

    def kill(done: CaptionProgress) -> None:
        if done.written == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption(photos, table, Namer(), batch_size=2, listen=kill)
    assert len(rows(table)) == 1 + 4
    done = caption(photos, table, Namer(), batch_size=2)
    assert (done.kept, done.written) == (4, PICTURES - 4)
    assert len({name for name, _ in rows(table)[1:]}) == PICTURES


@pytest.mark.parametrize("torn", ["holiday/1.p", "holiday/1.png\ta pict", "holiday/1.png"])
def test_a_line_that_a_kill_cut_off_is_written_again(photos: Path, torn: str) -> None:
    table = photos.parent / "captions.tsv"
    table.write_text(f"image\tcaption\n0.png\tmine\n{torn}")
    done = caption(photos, table, Namer())
    assert (done.kept, done.written) == (1, PICTURES - 1)
    assert dict(rows(table)[1:])["holiday/1.png"] == "a picture of 64 x 48"
    assert dict(rows(table)[1:])["0.png"] == "mine"


def test_pictures_that_cannot_be_read_are_told_and_the_others_captioned(photos: Path) -> None:
    write(photos, "broken.jpg", b"not a picture")
    write(photos, "with\ttab.png", encoded(scene(9, (64, 48)), "PNG"))
    done = caption(photos, photos.parent / "captions.tsv", Namer(), batch_size=2)
    assert done.written == PICTURES
    reasons = {uri.rsplit("/", 1)[1]: reason for uri, reason in done.failed}
    assert set(reasons) == {"broken.jpg", "with%09tab.png"}
    assert "rename it" in reasons["with%09tab.png"]


def test_a_table_of_something_else_is_left_alone(photos: Path) -> None:
    table = photos.parent / "products.tsv"
    table.write_text("image\tprice\n0.png\t3\n")
    with pytest.raises(SourceError, match=r"begins with 'image\\tprice', expected 'image\\tcaption'"):
        caption(photos, table, Namer())
    assert table.read_text() == "image\tprice\n0.png\t3\n"


def test_a_table_that_cannot_be_written_is_named(photos: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere/captions.tsv cannot be written"):
        caption(photos, photos.parent / "nowhere" / "captions.tsv", Namer())


def test_a_model_that_fails_keeps_what_is_written(photos: Path) -> None:
    class Failing(Namer):
        def captions(self, pictures: Sequence[Image.Image]) -> list[str]:
            if len(self.shown) == 2:
                raise RuntimeError("out of memory")
            return Namer.captions(self, pictures)

    table = photos.parent / "captions.tsv"
    with pytest.raises(EncoderError, match=r"out of memory.*smaller --batch"):
        caption(photos, table, Failing(), batch_size=2)
    assert len(rows(table)) == 1 + 4


def test_a_name_that_is_no_model_lists_what_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=BLIP):
        load_captioner("blipp", hub=Hub(offline=True))
    with pytest.raises(UsageError, match="or a folder with a BLIP model"):
        load_captioner(str(tmp_path / "nowhere"), hub=Hub(offline=True))


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tests.captioners")
    pytest.importorskip("transformers", reason="BLIP needs the caption extra")
    from tests import captioners

    return captioners.write_blip(tmp_path_factory.mktemp("models") / "blip")


def test_blip_from_a_folder_says_words_of_its_vocabulary(blip: Path, photos: Path) -> None:
    from tests.captioners import SIDE, WORDS

    model: Captioner = load_captioner(str(blip), hub=Hub(offline=True))
    assert model.image_size == SIDE
    said = model.captions([scene(number, (64, 48)) for number in range(3)])
    assert len(said) == 3
    assert all(set(text.split()) <= set(WORDS[6:]) and text for text in said)
    assert said[1:2] == model.captions([scene(1, (64, 48))])


def test_coca_says_something_of_each_picture(tmp_path: Path) -> None:
    pytest.importorskip("tests.captioners")
    pytest.importorskip("open_clip", reason="CoCa needs the caption extra")
    from tests import captioners

    model = coca(*captioners.make_coca(tmp_path))
    assert model.image_size == captioners.SIDE
    said = model.captions([scene(number, (64, 48)) for number in range(2)])
    assert len(said) == 2
    assert all("<end_of_text>" not in text and text.strip() for text in said)


def test_a_model_that_is_not_here_is_named_at_once(blip: Path) -> None:
    with pytest.raises(HubUnreachable, match=r"blip-image-captioning-base is not on this disk and offline mode is on"):
        load_captioner(BLIP, hub=Hub(offline=True))
    with pytest.raises(HubUnreachable, match=r"not on this disk and http://127.0.0.1:9 cannot be reached"):
        load_captioner(BLIP, hub=Hub(endpoint="http://127.0.0.1:9"))
    with pytest.raises(HubUnreachable, match=r"CoCa-ViT-L-14-laion2B-s13B-b90k is not on this disk"):
        load_captioner("coca:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k", hub=Hub(offline=True))
    with pytest.raises(ModelNotFound, match="expected one of coca:coca_ViT-B-32/laion2b_s13b_b90k"):
        load_captioner("coca:coca_ViT-L-14/none", hub=Hub(offline=True))


def test_a_folder_without_a_model_is_named(blip: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no BLIP model"):
        load_captioner(str(tmp_path), hub=Hub(offline=True))


def test_the_command_writes_the_table_and_goes_on(blip: Path, photos: Path) -> None:
    write(photos, "broken.jpg", b"not a picture")
    command = ["caption", "photos", "--model", str(blip), "--batch", "3"]
    code = "import sys, tests.captioners, sightline.cli.main as m; sys.exit(m.main(sys.argv[1:]))"
    environment = os.environ | {"SIGHTLINE_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, "-c", code, *command, *more]
        return subprocess.run(
            whole, capture_output=True, text=True, cwd=photos.parent, env=environment, timeout=100, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{PICTURES} pictures captioned, 1 could not be read: captions.tsv\n"
    assert "broken.jpg" in done.stderr
    again = json.loads(run("--json").stdout)
    assert (again["written"], again["kept"], len(again["failed"])) == (0, PICTURES, 1)
