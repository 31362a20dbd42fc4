import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.pictures import encoded, odd_names, scene, write

from sightline.errors import SourceError
from sightline.sources.base import open_source
from sightline.sources.files import path_of
from sightline.sources.folder import Folder
from sightline.types import Item

JPEG = encoded(scene(1), "JPEG")
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")


def names(folder: Path) -> list[str]:
    """The paths of the items, relative to the folder, in their order."""
    return [os.path.relpath(path_of(item.uri), folder) for item in open_source(folder)]


def items(folder: Path) -> dict[str, Item]:
    return dict(zip(names(folder), open_source(folder), strict=True))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permissions bind, even where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users may enter, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_pictures_come_in_order_of_their_names_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "sub/deep/c.webp", "sub/a.Jpeg", "notes.txt", ".hidden.jpg", ".git/x.jpg"):
        write(tmp_path, name, JPEG)
    write(tmp_path, "jpg", b"words")
    for name in ("@eaDir/thumb.jpg", "__MACOSX/b.jpg"):
        write(tmp_path, name, JPEG)
    assert names(tmp_path) == ["a.PNG", "b.jpg", "sub/a.Jpeg", "sub/deep/c.webp"]


def test_a_hidden_folder_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, ".photos/a.jpg", JPEG)
    assert names(tmp_path / ".photos") == ["a.jpg"]


def test_an_index_inside_the_folder_is_no_source_of_pictures(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", JPEG)
    for name in ("index.sqlite", "vectors-0001.i8", "cached.jpg"):
        write(tmp_path, f"photos.index/{name}", b"")
    assert names(tmp_path) == ["a.jpg"]


def test_an_item_knows_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, "holiday/beach 1.jpg", JPEG)
    os.utime(path, ns=(0, 1_500_000_000_123_456_789))
    (item,) = open_source(tmp_path)
    assert item.uri == path.as_uri()
    assert item.stamp == f"{len(JPEG)}-1500000000123456789"
    assert item.read() == JPEG
    assert item.payload == {
        "name": "beach 1.jpg",
        "folders": [folder.as_uri() for folder in (*reversed(path.parent.parents), path.parent)],
        "size_bytes": len(JPEG),
        "modified": datetime(2017, 7, 14, 2, 40, 0, 123457, UTC),
    }
    assert tmp_path.as_uri() in str(item.payload["folders"])


def test_names_of_any_bytes_survive_the_way_to_a_uri_and_back(tmp_path: Path) -> None:
    for name in odd_names():
        write(tmp_path, name, name)
    found = list(open_source(tmp_path))
    assert len(found) == len(odd_names())
    for item in found:
        assert item.read() == os.fsencode(path_of(item.uri).name)
        assert item.uri.isascii()
        assert item.uri == path_of(item.uri).as_uri()
        assert str(item.payload["name"]).encode("utf-8")


def test_a_file_of_any_year_is_offered(tmp_path: Path) -> None:
    path = write(tmp_path, "old.jpg", JPEG)
    os.utime(path, (-1e10, -1e10))
    assert [item.read() for item in open_source(tmp_path)] == [JPEG]


@posix
def test_a_link_is_followed_and_a_picture_keeps_its_own_place(tmp_path: Path) -> None:
    write(tmp_path, "in/z/a.jpg", JPEG)
    write(tmp_path, "elsewhere/b.jpg", JPEG)
    (tmp_path / "in" / "a-link").symlink_to("z")
    (tmp_path / "in" / "outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "c.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    assert names(tmp_path / "in") == ["c.jpg", "z/a.jpg", "outside/b.jpg"]


@posix
def test_loops_of_links_end(tmp_path: Path) -> None:
    write(tmp_path, "sub/a.jpg", JPEG)
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "sub" / "here").symlink_to(".")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "self").symlink_to("self")
    found = items(tmp_path)
    assert list(found) == ["self.jpg", "sub/a.jpg", "self"]
    for name in ("self", "self.jpg"):
        with pytest.raises(SourceError, match=r"self.*cannot be read.*links"):
            found[name].read()


@posix
def test_the_path_stays_as_the_user_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "disk/a.jpg", JPEG)
    (tmp_path / "photos").symlink_to("disk")
    monkeypatch.chdir(tmp_path)
    for location in (
        "photos",
        "photos/",
        "./photos",
        "disk/../photos",
        tmp_path / "photos",
        (tmp_path / "photos").as_uri(),
    ):
        source = open_source(location)
        assert source.root == (tmp_path / "photos").as_uri()
        assert [item.uri for item in source] == [(tmp_path / "photos" / "a.jpg").as_uri()]


@posix
def test_a_link_to_nowhere_is_a_failure_not_a_gap(tmp_path: Path) -> None:
    """The second one may lead to a disk that is not mounted: its pictures must not look deleted."""
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "Photos 2021").symlink_to("/media/no such disk/2021")
    found = items(tmp_path)
    assert list(found) == ["gone.jpg", "Photos 2021"]
    for item in found.values():
        with pytest.raises(SourceError, match=r"No such file.*expected.*check"):
            item.read()


@posix
def test_what_may_not_be_read_is_a_failure_not_a_gap(open_folder: Path) -> None:
    write(open_folder, "a.jpg", JPEG)
    write(open_folder, "locked.jpg", JPEG).chmod(0)
    write(open_folder, "locked/b.jpg", JPEG)
    (open_folder / "locked").chmod(0)
    with ordinary_user():
        found = items(open_folder)
        assert list(found) == ["a.jpg", "locked.jpg", "locked"]
        assert found["a.jpg"].read() == JPEG
        for name in ("locked.jpg", "locked"):
            with pytest.raises(SourceError, match=r"Permission denied.*expected.*change its permissions"):
                found[name].read()
        with pytest.raises(SourceError, match=r"locked cannot be read.*Permission denied.*permissions"):
            open_source(open_folder / "locked")
    (open_folder / "locked").chmod(0o755)
    unlocked = next(iter(open_source(open_folder / "locked")))
    assert found["locked"].uri in str(unlocked.payload["folders"])


def test_a_folder_that_vanishes_on_the_way_is_a_failure_not_a_gap(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", JPEG)
    write(tmp_path, "b/b.jpg", JPEG)
    iterator = iter(open_source(tmp_path))
    assert next(iterator).read() == JPEG
    shutil.rmtree(tmp_path / "b")
    (item,) = iterator
    assert item.uri == (tmp_path / "b").as_uri()
    with pytest.raises(SourceError, match="No such file"):
        item.read()


@posix
def test_pipes_and_sockets_are_not_opened(open_folder: Path) -> None:
    os.mkfifo(open_folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(open_folder / "socket.jpg"))
        (open_folder / "zero.png").symlink_to("/dev/zero")
        found = items(open_folder)
        for name, kind in (("pipe.jpg", "a named pipe"), ("socket.jpg", "a socket"), ("zero.png", "a device")):
            with pytest.raises(SourceError, match=f"{name} is {kind}: expected a regular file"):
                found[name].read()


@posix
def test_a_folder_with_the_name_of_a_picture_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "album.jpg/a.jpg", JPEG)
    assert names(tmp_path) == ["album.jpg/a.jpg"]


def test_a_file_that_changes_while_being_read_is_said_so(tmp_path: Path) -> None:
    path = write(tmp_path, "growing.jpg", bytes(50_000_000))
    (item,) = open_source(tmp_path)
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"more")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(SourceError, match=r"growing.jpg changed while being read"):
            item.read()
    finally:
        stop.set()
        writer.join()
    assert item.read() == path.read_bytes()


def test_a_file_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "huge.tif", b"")
    os.truncate(path, 3 * 1024**3)
    (item,) = open_source(tmp_path)
    with pytest.raises(SourceError, match="3,221,225,472 bytes: expected at most 2,147,483,648"):
        item.read()


def test_one_picture_is_a_source_too(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jpg", JPEG)
    write(tmp_path, "b.jpg", JPEG)
    source = open_source(path)
    assert source.root == path.as_uri()
    assert [(item.uri, item.stamp, item.payload) for item in source] == [
        (item.uri, item.stamp, item.payload) for item in list(open_source(tmp_path))[:1]
    ]


def test_an_empty_folder_offers_nothing(tmp_path: Path) -> None:
    assert list(open_source(tmp_path)) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"missing cannot be read \(No such file.*expected something there; check the path.*mounted"),
        ("missing/a.jpg", r"a.jpg cannot be read \(No such file"),
        ("notes.md", "notes.md is neither a folder nor a picture: expected a folder, or a file that ends in .jpg"),
        ("notes.md/a.jpg", r"a.jpg cannot be read \(Not a directory"),
        ("x" * 300, "cannot be read .*too long"),
        ("nul\0.jpg", "cannot be read .*null"),
    ],
)
def test_what_is_no_source_says_so_in_three_parts(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path, "notes.md", b"notes")
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / name)


def test_only_file_uris_have_a_path() -> None:
    assert path_of("file:///a%20b/%C3%A9.jpg") == Path("/a b/é.jpg")
    for uri in ("https://example.org/a.jpg", "file://server/share/a.jpg", "a.jpg"):
        with pytest.raises(SourceError, match="expected file:///"):
            path_of(uri)


def test_a_message_about_an_odd_name_is_valid_text(tmp_path: Path) -> None:
    for name in odd_names():
        with pytest.raises(SourceError) as raised:
            open_source(tmp_path / os.fsdecode(name))
        assert "\n" not in str(raised.value)
        assert str(raised.value).encode("utf-8")


def test_thousands_of_pictures_are_streamed(tmp_path: Path) -> None:
    for number in range(3000):
        write(tmp_path, f"{number // 100:02}/{number:05}.jpg", b"")
    iterator = iter(open_source(tmp_path))
    assert next(iterator).payload["name"] == "00000.jpg"
    shutil.rmtree(tmp_path / "29")  # not listed yet: the walk goes folder by folder
    rest = [item.payload["name"] for item in iterator]
    assert len(rest) == 2899 + 1
    assert rest[:-1] == sorted(str(name) for name in rest[:-1])


def test_what_is_left_out_is_counted_and_pictures_are_known_by_their_bytes(tmp_path: Path) -> None:
    picture = encoded(scene(1), "JPEG")
    for name in ("a.jpg", "no suffix", "b.jpg_large", "c.jpg ", "d.dat"):
        write(tmp_path / "album", name, picture)
    for name, content in (
        ("1.CR2", picture),
        ("2.cr2", b"II*\0"),
        ("3.psd", b"8BPS"),
        ("notes", b"words"),
        ("4.txt", b""),
    ):
        write(tmp_path / "album", name, content)
    for _ in range(2):
        source = open_source(tmp_path)
        assert isinstance(source, Folder)
        names = [item.payload["name"] for item in source]
        assert names == ["a.jpg", "b.jpg_large", "c.jpg ", "d.dat", "no suffix"]
        assert source.left_out == {".cr2": 2, ".psd": 1, "no suffix": 1}
    assert [item.payload["name"] for item in open_source(tmp_path / "album" / "no suffix")] == ["no suffix"]


def test_a_pipe_is_not_opened_to_see_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert list(open_source(tmp_path)) == []
