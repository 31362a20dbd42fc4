"""Archives are read in place: whatever is whole in them is offered, and whatever is not is said."""

import gzip
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.archives import make_tar, make_zip
from tests.pictures import encoded, scene, write

from sightline.cli.main import main
from sightline.errors import SourceError
from sightline.index import Index
from sightline.sources.base import Opening, expand, file_of, open_source, read_here, read_uri

PICTURES = {f"some folder/{n} ü.jpg": encoded(scene(n), "JPEG") for n in range(4)}
MAKERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "a.zip": make_zip,
    "stored.zip": lambda path, files: make_zip(path, files, zipfile.ZIP_STORED),
    "rare.zip": lambda path, files: make_zip(path, files, zipfile.ZIP_LZMA),
    "a.tar": make_tar,
    "a.tar.gz": lambda path, files: make_tar(path, files, "w:gz"),
    "a.tbz2": lambda path, files: make_tar(path, files, "w:bz2"),
    "packed.tar": lambda path, files: make_tar(path, files, "w:xz"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_picture_is_read_in_any_order(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path / name, PICTURES | {"notes.md": b"no picture", "__MACOSX/._a.jpg": b"no picture either"})
    items = list(open_source(tmp_path / name))
    assert [item.payload["name"] for item in items] == [f"{n} ü.jpg" for n in range(4)]
    for item, data in [*zip(items, PICTURES.values(), strict=True)][::-1]:
        assert item.read() == data == item.read()
        assert read_uri(item.uri) == data
        assert file_of(item.uri) == tmp_path / name


@pytest.mark.parametrize("name", MAKERS)
def test_a_second_run_encodes_nothing(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path / name, PICTURES)
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(tmp_path / name).encoded == 4
        assert index.add(tmp_path / name).unchanged == 4
        MAKERS[name](tmp_path / name, dict(list(PICTURES.items())[1:]))
        assert index.add(tmp_path / name).removed == 1


def test_files_of_one_name_are_what_is_known_of_a_picture(tmp_path: Path) -> None:
    files = {
        "000.jpg": encoded(scene(0), "JPEG"),
        "000.txt": b"a red car\n",
        "000.json": b'{"url": "http://a.example/1.jpg", "width": 3, "clip_score": 0.25, "exif": "{}", "empty": null}',
        "001.cls": b"7",
        "001.json": b"{broken",
        "001.seg.png": encoded(scene(1), "PNG"),
    }
    first, second = open_source(make_tar(tmp_path / "a.tar", files))
    known = {"caption": "a red car", "url": "http://a.example/1.jpg", "width_given": 3, "clip_score": 0.25}
    assert first.payload.items() >= known.items()
    assert first.payload.keys() - known.keys() == {"name", "folders", "size_bytes"}
    assert second.payload["label"] == 7


def test_another_caption_is_a_change(tmp_path: Path) -> None:
    files = {"000.jpg": encoded(scene(0), "JPEG"), "000.txt": b"a red car"}
    (before,) = open_source(make_zip(tmp_path / "a.zip", files))
    (after,) = open_source(make_zip(tmp_path / "a.zip", files | {"000.txt": b"two cats."}))
    assert (before.uri, after.payload["caption"]) == (after.uri, "two cats.")
    assert before.stamp != after.stamp


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_an_archive_that_ends_early_offers_what_is_there_and_says_so(tmp_path: Path, name: str) -> None:
    path = MAKERS[name](tmp_path / name, PICTURES)
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(path).encoded == 4
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if name == "a.tar.gz" else 15_000])
        whole = sum(1 for _ in open_source(path)) - 1
        assert 0 < whole < 4
        summary = index.add(path)
        assert (summary.removed, index.count()) == (0, 4)  # what lies behind the cut is not gone
        assert any("ends too early" in failure.reason for failure in index.failures())
        MAKERS[name](tmp_path / name, PICTURES)
        index.add(path)
        assert index.failures() == []


def test_a_damaged_member_fails_alone(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", PICTURES, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(PICTURES["some folder/2 ü.jpg"]) + 99] ^= 1
    path.write_bytes(data)
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(path).encoded == 3
        (failure,) = index.failures()
        assert "2 ü.jpg is damaged (its checksum differs)" in failure.reason
        make_zip(path, PICTURES)
        assert index.retry().encoded == 1
        assert index.failures() == []


def test_an_encrypted_member_asks_to_be_unpacked(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", PICTURES)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flags of the member, and in the list
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    first, *others = open_source(path)
    with pytest.raises(SourceError, match="is encrypted, expected one without a password"):
        first.read()
    assert [item.read() for item in others] == list(PICTURES.values())[1:]


def test_a_bomb_is_refused_by_what_it_says_of_itself(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.jpg": bytes(1 << 20)})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")  # announces 1,000 bytes and holds a million
    path.write_bytes(data)
    (item,) = open_source(path)
    with pytest.raises(SourceError, match="its checksum differs"):
        item.read()


@pytest.mark.parametrize("name", ["../../evil.jpg", "/etc/evil.jpg", "a#b?c%.jpg", "C:\\evil.jpg"])
def test_a_members_name_leads_nowhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in" / "in"
    folder.mkdir(parents=True)
    path = make_tar(folder / "a.tar", {name: encoded(scene(1), "JPEG")})
    (item,) = open_source(path)
    assert item.uri.startswith(f"{path.as_uri()}#")
    assert read_uri(item.uri) == encoded(scene(1), "JPEG")
    assert file_of(item.uri) == path
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["a.tar"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("data", [b"", b"nothing of the kind " * 99])
def test_what_is_no_archive_is_said(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match="is damaged"):
        open_source(tmp_path / name)


def test_braces_and_stars_name_shards(tmp_path: Path) -> None:
    names = [path.name for path in expand(str(tmp_path / "{0008..0011}-{a,b}.tar"))]
    assert names[:3] == ["0008-a.tar", "0008-b.tar", "0009-a.tar"]
    assert len(names) == 8
    for n, (name, data) in enumerate(PICTURES.items()):
        make_tar(tmp_path / f"{n:04}.tar", {name: data})
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        summary = index.add(str(tmp_path / "{0000..0004}.tar"))
        assert (summary.encoded, summary.failed) == (4, 1)
        assert "0004.tar" in index.failures()[0].uri
        make_tar(tmp_path / "0004.tar", {"a.jpg": encoded(scene(9), "JPEG")})
        assert index.add(str(tmp_path / "{0000..0004}.tar")).encoded == 1
        assert index.failures() == []
        (tmp_path / "0001.tar").unlink()
        again = index.add(str(tmp_path / "*.tar"))
        assert (again.seen, again.unchanged) == (4, 4)
    with pytest.raises(SourceError, match="names no file"):
        open_source(str(tmp_path / "*.tgz"))


def test_the_archives_in_a_folder_are_taken_if_asked(tmp_path: Path) -> None:
    write(tmp_path, "set/train/a.jpg", encoded(scene(8), "JPEG"))
    make_zip(tmp_path / "set" / "more.zip", PICTURES)
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(tmp_path / "set").encoded == 1
        summary = index.add(open_source(tmp_path / "set", Opening(archives=True)))
        assert (summary.encoded, summary.left_out) == (4, {})
        (tmp_path / "set" / "more.zip").unlink()
        assert index.add(open_source(tmp_path / "set", Opening(archives=True))).removed == 4


def test_a_picture_in_an_archive_can_be_had_again_and_one_on_the_web_only_from_the_cache(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"deep/a.jpg": b"picture"})
    (item,) = open_source(path)
    assert read_here(item.uri) == b"picture"
    with pytest.raises(SourceError, match="does not lie here"):
        read_here("http://127.0.0.1:1/a.jpg", tmp_path)


def test_a_folder_of_archives_alone_says_how_to_take_their_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    make_zip(tmp_path / "photos" / "a.zip", PICTURES)
    index = ["--index", str(tmp_path / "a.index"), "--model", "pixels"]
    assert main(["index", str(tmp_path / "photos"), *index]) == 0
    assert "but 1 archive: take the pictures in them with --archives" in capsys.readouterr().out
    assert main(["index", str(tmp_path / "photos"), "--archives", *index]) == 0
    assert f"{len(PICTURES)} pictures encoded" in capsys.readouterr().out


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_lies_about_its_size_is_not_unpacked(tmp_path: Path, method: int) -> None:
    path, picture = tmp_path / "a.zip", encoded(scene(1), "PNG")
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("bomb.png", bytes(200 << 20))
        archive.writestr("good.png", picture)
    data = bytearray(path.read_bytes())
    real, told = (200 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert data.count(real) in (2, 4)  # stored: the packed size, too
    path.write_bytes(data.replace(real, told))
    tracemalloc.start()
    read = dict[str, bytes | SourceError]()
    for item in open_source(path):
        try:
            read[str(item.payload["name"])] = item.read()
        except SourceError as error:
            read[str(item.payload["name"])] = error
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert "damaged" in str(read["bomb.png"])
    assert read["good.png"] == picture


@pytest.mark.parametrize("kind", [b"L", b"x"])
def test_a_tar_header_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    header = bytearray(tarfile.TarInfo("././@LongLink").tobuf(tarfile.GNU_FORMAT))
    header[124:136], header[156:157] = b"%011o\0" % (300 << 20), kind
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(b" " * 8) + sum(header[156:]))
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(header)
        for _ in range(300):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(SourceError, match="a header of"):
        list(open_source(path))
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
