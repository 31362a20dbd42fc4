"""What every source promises, for each of them."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.archives import make_tar, make_zip
from tests.pictures import encoded, odd_names, scene, write

from sightline.errors import SourceError
from sightline.sources.base import Opening, Source, open_source
from sightline.types import record_id


@dataclass(frozen=True)
class Case:
    """A kind of source: `make` fills a folder with pictures and opens it, `change` alters one of them."""

    make: Callable[[Path], Source]
    change: Callable[[Path], object]


def make_folder(folder: Path) -> Source:
    for number, name in enumerate([b"a.jpg", b"sub/b.jpg", b"sub/sub/c.jpg", *odd_names()]):
        write(folder, name, encoded(scene(number), "JPEG"))
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    return open_source(folder)


def make_single_file(folder: Path) -> Source:
    return open_source(write(folder, "sub/b.jpg", encoded(scene(1), "JPEG")))


def change_file(folder: Path) -> None:
    write(folder, "sub/b.jpg", encoded(scene(99), "JPEG"))


def make_table_of_paths(folder: Path) -> Source:
    lines = ["image,caption,price"]
    for number, name in enumerate(["a.jpg", "sub/b.jpg", "sub/ü c.jpg"]):
        write(folder, name, encoded(scene(number), "JPEG"))
        lines.append(f"{name},picture {number},{number}.5")
    return open_source(table(folder, [*lines, "gone.jpg,nothing,1"]))


def make_table_of_urls(folder: Path) -> Source:
    """Nobody answers: what lies at the URLs is in the cache, by the SHA-256 of each."""
    urls = [f"http://127.0.0.1:1/{name}" for name in ("a.jpg", "b.jpg?size=2", "c")]
    for number, url in enumerate(urls):
        digest = sha256(url.encode()).hexdigest()
        write(folder, f"cache/{digest[:2]}/{digest}", encoded(scene(number), "JPEG"))
    lines = [f"{url}\tpicture {number}" for number, url in enumerate(urls)]
    return open_source(table(folder, ["url\tcaption", *lines]), Opening(cache=folder / "cache"))


def table(folder: Path, lines: list[str]) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join(lines), "utf-8")
    return path


def change_caption(folder: Path) -> None:
    path = folder / "table.csv"
    path.write_text(path.read_text("utf-8").replace("picture 1", "another"), "utf-8")


MEMBERS = {f"sub/{n}.jpg": encoded(scene(n), "JPEG") for n in range(3)} | {"sub/0.txt": b"a caption"}
CHANGED = MEMBERS | {"sub/1.jpg": encoded(scene(99), "JPEG")}


def change_shard(folder: Path) -> None:
    make_tar(folder / "0001.tar", {"x.jpg": encoded(scene(99), "JPEG")})


def make_shards(folder: Path) -> Source:
    for number in range(3):
        make_tar(folder / f"000{number}.tar", {"x.jpg": encoded(scene(number), "JPEG"), "x.txt": b"a caption"})
    make_tar(folder / "0001.tar", {"x.jpg": encoded(scene(1), "JPEG")})
    return open_source(str(folder / "{0000..0003}.tar"))


SOURCES = {
    "folder": Case(make_folder, change_file),
    "single file": Case(make_single_file, change_file),
    "table of paths": Case(make_table_of_paths, change_file),
    "table of URLs": Case(make_table_of_urls, change_caption),
    "zip": Case(
        lambda folder: open_source(make_zip(folder / "a.zip", MEMBERS)),
        lambda folder: make_zip(folder / "a.zip", CHANGED),
    ),
    "tar": Case(
        lambda folder: open_source(make_tar(folder / "a.tar", MEMBERS)),
        lambda folder: make_tar(folder / "a.tar", CHANGED),
    ),
    "compressed tar": Case(
        lambda folder: open_source(make_tar(folder / "a.tgz", MEMBERS, "w:gz")),
        lambda folder: make_tar(folder / "a.tgz", CHANGED, "w:gz"),
    ),
    "shards": Case(make_shards, change_shard),
}
"""A new source is one more line."""

every_source = pytest.mark.parametrize("case", SOURCES.values(), ids=SOURCES)


@every_source
def test_two_iterations_are_equal(case: Case, tmp_path: Path) -> None:
    source = case.make(tmp_path)
    first, second = ([(item.uri, item.stamp, item.payload) for item in source] for _ in range(2))
    assert first == second
    assert first


@every_source
def test_opening_again_gives_the_same_uris(case: Case, tmp_path: Path) -> None:
    once, again = case.make(tmp_path), None
    uris = [item.uri for item in once]
    for path in tmp_path.rglob("*.jpg"):
        if path.is_symlink():
            path.unlink()
    again = case.make(tmp_path)
    assert (once.root, uris) == (again.root, [item.uri for item in again])


@every_source
def test_every_item_lies_under_the_root(case: Case, tmp_path: Path) -> None:
    source = case.make(tmp_path)
    for item in source:
        assert item.uri == source.root or source.root in list(map(str, item.payload["folders"]))  # type: ignore[arg-type]


@every_source
def test_uris_are_uris_and_ids_are_unique(case: Case, tmp_path: Path) -> None:
    uris = [item.uri for item in case.make(tmp_path)]
    assert len({record_id(uri) for uri in uris}) == len(uris)
    for uri in uris:
        assert uri.isascii()
        assert uri.isprintable()
        assert urlsplit(uri).scheme


@every_source
def test_changed_content_is_seen_in_the_stamp_of_that_item_alone(case: Case, tmp_path: Path) -> None:
    source = case.make(tmp_path)
    before = {item.uri: item.stamp for item in source}
    case.change(tmp_path)
    after = {item.uri: item.stamp for item in source}
    assert before.keys() == after.keys()
    assert sum(before[uri] != after[uri] for uri in before) == 1


@every_source
def test_reading_gives_the_same_bytes_each_time_or_a_source_error(case: Case, tmp_path: Path) -> None:
    readable = 0
    for item in case.make(tmp_path):
        try:
            data = item.read()
        except SourceError:
            continue
        assert data == item.read()
        readable += 1
    assert readable


@every_source
def test_payloads_hold_plain_values_of_valid_text(case: Case, tmp_path: Path) -> None:
    for item in case.make(tmp_path):
        values = item.payload.items()
        plain = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in values}
        assert json.loads(json.dumps(plain, ensure_ascii=False).encode("utf-8")) == plain
        assert all(value.tzinfo for value in item.payload.values() if isinstance(value, datetime))
        assert item.payload["name"]


@every_source
def test_a_source_reads_nothing_before_it_is_asked(case: Case, tmp_path: Path) -> None:
    source = case.make(tmp_path)
    offered = list(source)
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)
    for item in offered:
        try:
            assert item.read() == b""
        except SourceError:
            continue
