"""What is there twice is found, what only looks alike is not, and nothing is deleted."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.archives import make_zip
from tests.pictures import encoded, scene

from sightline.analysis.duplicates import groups, keep_threshold, threshold_of
from sightline.cli.main import main
from sightline.encoders.base import load_encoder
from sightline.errors import UsageError
from sightline.evaluate.copies import COPIES, measure
from sightline.index import Index
from sightline.stores.memory import MemoryStore
from sightline.types import Record, Vectors, record_id


def store_of(vectors: Vectors, widths: list[int]) -> MemoryStore:
    store = MemoryStore(vectors.shape[1])
    store.upsert(
        [
            Record(record_id(f"p:{n}"), f"p:{n}", vector / np.linalg.norm(vector), {"width": width, "height": 1})
            for n, (vector, width) in enumerate(zip(vectors, widths, strict=True))
        ]
    )
    return store


def test_a_chain_of_small_steps_joins_no_two_different_pictures() -> None:
    angles = np.radians(np.arange(0, 90, 10))
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = groups(store_of(circle, [1] * 9), same=0.98)  # each is alike with its two neighbours: cos 10° = 0.985
    vectors = {f"p:{n}": vector for n, vector in enumerate(circle)}
    for group in found:
        assert all(vectors[group.kept.uri] @ vectors[copy.hit.uri] >= 0.98 for copy in group.copies)
    assert len(found) == 4


def test_the_largest_is_kept_and_every_copy_found_however_many() -> None:
    vectors = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    vectors[:80] = vectors[0] + 0.01 * vectors[:80]  # more than are asked for at first
    (group,) = groups(store_of(vectors, list(range(1, 201))))
    assert group.kept.uri == "p:79"
    assert {copy.hit.uri for copy in group.copies} == {f"p:{n}" for n in range(79)}


def test_a_file_that_is_gone_is_neither_kept_nor_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, index = tmp_path / "A", str(tmp_path / "i")
    before.mkdir()
    scene(3).save(before / "a.png")
    assert main(["index", str(before), "--index", index, "--model", "pixels", "-q"]) == 0
    before.rename(tmp_path / "B")
    assert main(["index", str(tmp_path / "B"), "--index", index, "-q"]) == 0
    capsys.readouterr()
    assert main(["duplicates", "--index", index, "--keep", "largest"]) == 1
    assert capsys.readouterr().out == ""
    shutil.copy(tmp_path / "B" / "a.png", tmp_path / "B" / "b.png")
    assert main(["index", str(tmp_path / "B"), "--index", index, "-q"]) == 0
    assert main(["duplicates", "--index", index, "--keep", "largest"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'B' / 'b.png'}\n"
    assert "--measure 100" in printed.err


def test_every_picture_is_in_one_group_at_most() -> None:
    vectors = np.random.default_rng(1).standard_normal((100, 3)).astype(np.float32)
    members = [hit.uri for g in groups(store_of(vectors, [1] * 100)) for hit in (g.kept, *(c.hit for c in g.copies))]
    assert members
    assert len(members) == len(set(members))


def test_a_threshold_that_is_no_cosine_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a cosine"):
        groups(MemoryStore(2), same=1.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes; the first one a second time as it is, smaller, and re-encoded."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(10):
        (folder / f"{seed}.jpg").write_bytes(encoded(scene(seed, (640, 480)), "JPEG", quality=92))
    shutil.copy(folder / "0.jpg", folder / "same.jpg")
    with Image.open(folder / "0.jpg") as first:
        first.resize((320, 240)).save(folder / "small.jpg", quality=90)
        first.save(folder / "reencoded.jpg", quality=60)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> str:
    url = str(folder.parent / f"{folder.name}.index")
    with Index(url, model="mini") as index:
        index.add(folder)
    return url


def test_copies_of_every_kind_are_found_and_the_paths_that_could_go_are_printed(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Index(url) as index:
        same = [group for group in groups(index.store, same=0.9999) if group.copies[0].kind == "bytes"]
    assert [{Path(hit.uri).name for hit in (g.kept, g.copies[0].hit)} for g in same] == [{"0.jpg", "same.jpg"}]
    assert main(["duplicates", "--index", url, "--threshold", "0.9", "--keep", "largest"]) == 0
    printed = capsys.readouterr().out.split()
    assert {str(folder / name) for name in ("small.jpg", "reencoded.jpg")} <= set(printed)
    assert {"0.jpg", "same.jpg"} & {Path(path).name for path in printed}
    assert len(list(folder.iterdir())) == 13


def test_the_threshold_is_measured_on_copies_of_the_own_pictures_and_kept(url: str, folder: Path) -> None:
    with Index(url) as index:
        found = measure(index.store, load_encoder("mini"), sample=10)
        keep_threshold(index.store, found.threshold, found.to_dict())
        assert threshold_of(index.store) == found.threshold
    assert set(found.found) == set(COPIES)
    assert found.found["re-encoded"] >= 0.8
    assert found.same_pixels >= 3  # the four files of the first scene are no evidence of what different pictures reach
    assert found.others_reaching == 0


def test_the_threshold_is_measured_on_pictures_in_an_archive_too(folder: Path, tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {path.name: path.read_bytes() for path in folder.iterdir()})
    with Index(str(tmp_path / "a.index"), model="mini") as index:
        index.add(tmp_path / "a.zip")
        assert measure(index.store, load_encoder("mini"), sample=8).sample == 8
        with pytest.raises(UsageError, match="the sample is 7, expected at least 8"):
            measure(index.store, load_encoder("mini"), sample=7)


def test_a_search_folds_near_duplicates_and_still_finds_as_many_as_asked_for(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["search", str(folder / "0.jpg"), "--index", url, "-k", "4"]
    assert main([*first, "--paths"]) == 0
    plain = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert len({"0.jpg", "same.jpg", "small.jpg", "reencoded.jpg"} & set(plain)) > 1
    assert main([*first, "--paths", "--fold"]) == 0
    folded = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert len(folded) == 4
    assert len({"0.jpg", "same.jpg", "reencoded.jpg"} & set(folded)) == 1
    assert main([*first, "--paths", "--fold", "--offset", "1"]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()][:3] == folded[1:]
