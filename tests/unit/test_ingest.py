"""What an indexing run does, and does not do again."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL.Image import Image
from tests.pictures import scene

from sightline.encoders.base import Encoder, load_encoder
from sightline.errors import SourceError
from sightline.index import Index
from sightline.ingest import Options, ingest
from sightline.stores.memory import MemoryStore
from sightline.types import Item, Pixels, Record, Vectors, Where


@dataclass
class Counting:
    """The pixels encoder, with a count of the pictures that went through it."""

    inner: Encoder = field(default_factory=lambda: load_encoder("pixels"))
    encoded: int = 0
    name: str = "counting"
    fingerprint: str = "1"
    dim: int = 0
    image_size: int = 0
    batch_size: int = 4

    def __post_init__(self) -> None:
        self.dim, self.image_size = self.inner.dim, self.inner.image_size

    def preprocess(self, image: Image) -> Pixels:
        return self.inner.preprocess(image)

    def encode_images(self, pixels: Pixels) -> Vectors:
        self.encoded += len(pixels)
        return self.inner.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return self.inner.encode_texts(texts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for number in range(10):
        scene(number).save(folder / ("sub" if number % 2 else "") / f"{number}.png")
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(str(tmp_path / "test.index"), model=Counting())


def counted(index: Index) -> int:
    assert isinstance(index.encoder, Counting)
    return index.encoder.encoded


def uris(index: Index) -> set[str]:
    return {record.uri for record in index.store.scan()}


def test_second_run_encodes_nothing(index: Index, folder: Path) -> None:
    first = index.add(folder)
    second = index.add(folder)
    assert (first.encoded, first.seen) == (10, 10)
    assert (second.encoded, second.reused, second.unchanged) == (0, 0, 10)
    assert counted(index) == 10


def test_a_touched_picture_is_recognised_by_its_hash(index: Index, folder: Path) -> None:
    index.add(folder)
    os.utime(folder / "0.png", (1, 1))
    summary = index.add(folder)
    assert (summary.encoded, summary.reused, summary.unchanged) == (0, 1, 9)
    assert index.add(folder).unchanged == 10


def test_a_renamed_picture_is_recognised_and_its_old_name_leaves(index: Index, folder: Path) -> None:
    index.add(folder)
    (folder / "0.png").rename(folder / "renamed.png")
    summary = index.add(folder)
    assert (summary.encoded, summary.reused, summary.removed) == (0, 1, 1)
    record = index.record(str(folder / "renamed.png"))
    assert record.payload["name"] == "renamed.png"
    assert (folder / "0.png").as_uri() not in uris(index)


def test_a_copied_picture_is_recognised(index: Index, folder: Path) -> None:
    index.add(folder)
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    summary = index.add(folder)
    assert (summary.encoded, summary.reused, index.count()) == (0, 1, 11)


def test_a_changed_picture_is_encoded_again(index: Index, folder: Path) -> None:
    index.add(folder)
    scene(99).save(folder / "0.png")
    summary = index.add(folder)
    assert (summary.encoded, summary.unchanged) == (1, 9)
    best = index.search(image=scene(99), k=1)[0]
    assert best.uri == (folder / "0.png").as_uri()


def test_a_vanished_picture_leaves_the_index(index: Index, folder: Path) -> None:
    index.add(folder)
    (folder / "0.png").unlink()
    assert index.add(folder).removed == 1
    assert index.count() == 9


def test_a_missing_root_empties_nothing(index: Index, folder: Path) -> None:
    index.add(folder)
    folder.rename(folder.with_name("unmounted"))
    with pytest.raises(SourceError):
        index.add(folder)
    assert index.count() == 10


def test_an_empty_mount_point_empties_nothing(index: Index, folder: Path) -> None:
    index.add(folder)
    folder.rename(folder.with_name("unmounted"))
    folder.mkdir()
    summary = index.add(folder)
    assert (summary.removed, summary.kept, index.count()) == (0, 10, 10)


def test_indexing_a_sub_folder_leaves_the_rest_alone(index: Index, folder: Path) -> None:
    index.add(folder)
    (folder / "sub" / "1.png").unlink()
    assert index.add(folder / "sub").removed == 1
    assert index.count() == 9


def test_a_broken_picture_is_a_failure_that_is_tried_again_when_it_changes(index: Index, folder: Path) -> None:
    broken = folder / "broken.jpg"
    broken.write_bytes(b"")
    assert index.add(folder).failed == 1
    assert index.add(folder).skipped == 1
    (failure,) = index.failures()
    assert (failure.uri, failure.stage, failure.retries) == (broken.as_uri(), "decode", 0)
    scene(50).save(broken, "JPEG")
    assert index.add(folder).encoded == 1
    assert index.failures() == []


def test_retry_counts_and_forgets_what_is_gone(index: Index, folder: Path) -> None:
    broken, gone = folder / "broken.jpg", folder / "gone.jpg"
    broken.write_bytes(b"text")
    gone.write_bytes(b"text")
    index.add(folder)
    gone.unlink()
    assert index.retry().failed == 1
    (failure,) = index.failures()
    assert (failure.uri, failure.retries) == (broken.as_uri(), 1)


def test_retry_keeps_the_failure_of_a_folder_that_is_still_there_but_unreadable(index: Index, folder: Path) -> None:
    index.add(folder)
    loop = folder / "loop.jpg"
    loop.symlink_to(loop)
    index.add(folder)
    index.retry()
    assert [failure.uri for failure in index.failures()] == [loop.as_uri()]


def test_the_payload_says_what_is_known(index: Index, folder: Path) -> None:
    index.add(folder)
    payload = index.record(str(folder / "sub" / "1.png")).payload
    image = scene(1)
    assert (payload["name"], payload["width"], payload["height"]) == ("1.png", image.width, image.height)
    assert folder.as_uri() in payload["folders"]  # type: ignore[operator]
    assert len(str(payload["sha256"])) == 64


def test_one_worker_and_many_give_the_same_index(tmp_path: Path, folder: Path) -> None:
    vectors = []
    for workers in (1, 4):
        index = Index(str(tmp_path / f"{workers}.index"), model=Counting())
        index.add(folder, Options(workers=workers))
        vectors.append({record.uri: record.vector.tobytes() for record in index.store.scan()})
    assert vectors[0] == vectors[1]


def test_progress_counts_every_picture(index: Index, folder: Path) -> None:
    seen = []
    index.add(folder, Options(on_progress=lambda summary: seen.append(summary.encoded)))
    assert seen[-1] == 10
    assert seen == sorted(seen)


def test_of_a_thousand_copies_one_record_is_looked_at(folder: Path) -> None:
    looked_at = list[str]()

    class Watched(MemoryStore):
        def scan(self, where: Where | None = None) -> Iterator[Record]:
            for record in super().scan(where):
                looked_at.append(record.id)
                yield record

    picture, encoder = (folder / "0.png").read_bytes(), Counting()
    store = Watched(dim=encoder.dim)

    def copies(first: int, last: int) -> list[Item]:
        return [Item(f"file:///{number}.png", "1", lambda: picture) for number in range(first, last)]

    options = Options(workers=1)
    ingest(copies(0, 100), encoder, store, options=options, seen=set())
    looked_at.clear()
    assert ingest(copies(100, 104), encoder, store, options=options, seen=set()).reused == 4
    assert len(looked_at) == 1
