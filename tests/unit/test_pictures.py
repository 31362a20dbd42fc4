"""Every way in which a picture comes in gives the same pixels, as a query and as an item; all else is a clear error."""

import base64
import json
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.pictures import COLOURED, SEE_THROUGH, encoded, quarters, scene, swapped_profile, tiff, turned, write

import sightline
from sightline.errors import ExtraMissing, SightlineError, StoreNotFound, UsageError
from sightline.pictures import pixels_of
from sightline.query import Term, terms_of

FILES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: encoded(scene(1), "PNG"),
    "turned": lambda: turned(6, quality=95),
    "alpha": SEE_THROUGH["alpha.png"],
    "16 bits": lambda: encoded(Image.fromarray(np.arange(64 * 96).reshape(64, 96).astype(np.uint16) * 10), "PNG"),
    "float": lambda: encoded(Image.fromarray(np.linspace(0, 1, 6144).reshape(64, 96).astype(np.float32)), "TIFF"),
    "planar": lambda: tiff(np.asarray(scene(2)).astype(np.uint16) * 257, photometric=2, is_planar=True),
    "profile": lambda: encoded(scene(3), "PNG", icc_profile=swapped_profile()),
    "CMYK": COLOURED["cmyk.jpg"],
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sightline.Index]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, data in FILES.items():
        write(folder, f"{name}.bin.{'jpg' if name in ('turned', 'CMYK') else 'png'}", data())
    with sightline.open(folder / "index", model="pixels") as opened:
        opened.add(folder)
        yield opened


@pytest.mark.parametrize("name", FILES)
def test_every_way_in_finds_the_same_picture_with_a_score_of_one(index: sightline.Index, name: str) -> None:
    data = FILES[name]()
    (path,) = [hit.path for hit in index.search(np.ones(index.encoder.dim), k=20) if name in str(hit.path)]
    assert path is not None
    loaded = Image.open(BytesIO(data))
    ways: dict[str, Any] = {
        "path as text": str(path),
        "path": path,
        "file: URL": path.as_uri(),
        "data: URL": f"data:image/png;base64,{base64.b64encode(data).decode()}",
        "bytes": data,
        "bytearray": bytearray(data),
        "file object": BytesIO(data),
        "opened": path.open("rb"),
        "image": Image.open(BytesIO(data)),
        "array": np.asarray(pixels_of(data, image_size=1 << 20)),
        "floats": np.asarray(pixels_of(data, image_size=1 << 20)) / 255,
    }
    if name != "planar":  # of which Pillow itself makes garbage
        loaded.load()
        ways["loaded image"] = loaded
    for way, query in ways.items():
        for hit in (
            index.search(query, k=1)[0],
            index.search(image=query, k=1)[0] if way not in ("file object", "opened") else None,
        ):
            assert hit is None or (hit.path == path and hit.score > 0.999), way
    ways["opened"].close()


def test_a_picture_that_was_worked_on_is_taken_as_it_is() -> None:
    data = turned(6, quality=95)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert pixels_of(upright, image_size=64).tobytes() == pixels_of(data, image_size=64).tobytes()
    cropped = Image.open(BytesIO(encoded(quarters(), "PNG"))).crop((0, 0, 20, 20))
    assert pixels_of(cropped, image_size=64).size == (20, 20)
    again = pixels_of(pixels_of(data, image_size=64), image_size=64)
    assert again.tobytes() == pixels_of(data, image_size=64).tobytes()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.full((8, 9), 200, np.uint8), 200),
        (np.full((8, 9, 1), 200, np.uint8), 200),
        (np.full((8, 9, 3), 200, np.uint8), 200),
        (np.full((8, 9, 4), 200, np.uint8), 212),  # a fifth transparent, over white
        (np.full((8, 9), 0.5), 128),
        (np.full((8, 9, 3), 0.5, np.float32), 128),
        (np.full((8, 9), 65535, np.uint16), 255),
        (np.ones((8, 9), bool), 255),
    ],
)
def test_arrays(values: np.ndarray, wanted: int) -> None:
    pixels = np.asarray(pixels_of(values, image_size=64))
    assert pixels.shape == (8, 9, 3)
    assert abs(pixels.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"shape is \(3, 8, 9\), expected \(height, width\)"),
        (np.zeros((0, 9), np.uint8), "shape"),
        (np.zeros((8, 9, 2), np.uint8), "shape"),
        (np.zeros((8, 9), np.int64), "type is int64, expected uint8"),
        (np.full((8, 9), 200.0), "floats of 200 to 200, expected 0 to 1"),
        (np.full((8, 9), np.nan), "floats of nan"),
        (5, "type int, expected words, a picture"),
        (object(), "type object, expected words, a picture"),
        ({"a": 1}, "type dict, expected words"),
        (["a dog", "a cat"], "type list, expected words.*several queries"),
        ([], "type list"),
        (np.ones(7), "shape \\(7,\\).*expected 768 finite numbers"),
        (np.zeros(768), "norm 0.*not all 0"),
        (StringIO("text"), "gives str, expected bytes: open it with mode 'rb'"),
        (Path("/no/such.jpg"), "there is no picture at"),
        ("./no/such.jpg", "there is no picture at"),
        ("data:image/png;base64,!!!!", "not valid base64"),
        ("data:image/png;base64,AAAA", "not a picture"),
        (b"", "an empty file"),
        (b"hello", "text"),
        ("file:///no/such.jpg", "no/such.jpg"),
    ],
)
def test_what_is_no_query_is_an_error_that_says_so(index: sightline.Index, query: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        index.search(query)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.search("x", k="3"), "k is '3'"),
        (lambda index: index.search("x", k=2.5), "k is 2.5"),
        (lambda index: index.search("x", offset=None), "offset is None"),
        (lambda index: index.search("x", min_score="high"), "min_score is 'high'"),
        (lambda index: index.search("x", where=5), "5"),
        (lambda index: index.search(terms=["x"]), "term"),
        (lambda index: index.search(image=5), "an int as a picture|of type int|a picture"),
        (lambda index: index.similar(5), "int, expected its id, path or URI"),
        (lambda index: index.remove(5), "int"),
        (lambda index: index.remove([5]), "int"),
        (lambda index: index.record(None), "NoneType"),
        (lambda index: index.add(5), "int"),
        (lambda index: index.add([5]), "int"),
        (lambda index: index.count(5), "5"),
        (lambda _: Term("img", "x"), "'img', expected text, image, id or vector"),  # type: ignore[arg-type]
        (lambda _: Term("text", "x", "heavy"), "'heavy', expected a finite number"),  # type: ignore[arg-type]
        (lambda _: Term("text", 5), "type int, expected text"),  # type: ignore[arg-type]
        (lambda _: sightline.open(5), "5|int"),  # type: ignore[arg-type]
        (lambda _: sightline.open("memory:", model=5).encoder, "int"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_usage_errors(index: sightline.Index, call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        call(index)


def test_pictures_of_every_kind_are_items(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jpg", encoded(scene(1), "JPEG"))
    other = write(tmp_path, "b.png", encoded(scene(2), "PNG"))
    decoded = Image.open(BytesIO(turned(6, quality=95)))
    decoded.load()
    array = np.asarray(scene(3))
    with sightline.open("memory:", model="pixels") as index:
        packed = base64.b64encode(encoded(scene(6), "PNG")).decode()
        given: list[Any] = [str(path), other, encoded(scene(4), "PNG"), decoded, array]
        given.append(BytesIO(encoded(scene(5), "PNG")))
        summary = index.add([*given, f"data:image/png;base64,{packed}"])
        assert (summary.seen, summary.encoded, summary.failed) == (7, 7, 0)
        assert index.add(array).unchanged == 1
        assert index.search(array, k=1)[0].score > 0.999
        assert index.search(turned(6, quality=95), k=1)[0].score > 0.999
        assert index.similar(other, k=1)


def test_a_vector_is_a_query(index: sightline.Index) -> None:
    record = next(iter(index.store.scan()))
    assert index.search(record.vector * 3, k=1)[0].id == record.id
    assert index.search(record.vector.tolist(), k=1)[0].id == record.id
    assert index.search([Term("vector", record.vector), Term("id", record.id)], k=1)[0].id == record.id


def test_text_is_read_as_on_the_command_line() -> None:
    assert terms_of("dog - snow") == [Term("text", "dog"), Term("text", "snow", -1.0)]
    assert terms_of("./a.jpg") == [Term("image", "./a.jpg")]
    assert terms_of("https://example.org/a?b=c") == [Term("image", "https://example.org/a?b=c")]
    assert terms_of("a photo called sunset.png") == [Term("text", "a photo called sunset.png")]


def test_an_index_that_is_not_built_shows_itself(tmp_path: Path) -> None:
    index = sightline.open(tmp_path / "new.index")
    assert repr(index).endswith("new.index', not built yet)")
    assert "not built yet" in index._repr_html_()
    with pytest.raises(StoreNotFound):
        index.count()


@pytest.mark.parametrize("url", ["folder", "memory:"])
def test_an_index_can_be_dropped(tmp_path: Path, url: str) -> None:
    path = write(tmp_path / "pictures", "a.png", encoded(scene(1), "PNG"))
    place = tmp_path / "index" if url == "folder" else url
    index = sightline.open(place, model="pixels")
    index.add(path.parent)
    index.drop()
    assert not (tmp_path / "index").exists()
    assert path.exists()
    assert "not built yet" in repr(index)
    index.add(path.parent)
    assert index.count() == 1


def test_the_package_lists_what_there_is() -> None:
    assert {"Hit", "Hits", "Index", "Options", "Term", "open"} <= set(dir(sightline))
    assert "import_module" not in dir(sightline)
    with pytest.raises(AttributeError, match="'Indx'"):
        sightline.Indx  # noqa: B018


def test_hits_have_paths_pictures_tables_and_plain_payloads(
    index: sightline.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = index.search(scene(1), k=3)
    assert hits[0].path is not None
    assert hits[0].path.name == "plain.bin.png"
    assert hits[0].image().size == (320, 240)
    assert json.loads(json.dumps(dict(hits[0].payload)))["name"] == "plain.bin.png"
    json.dumps(hits[0].payload)
    pandas = pytest.importorskip("pandas")
    table = hits.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns[:4]) == ["id", "uri", "path", "score"]
    assert len(table) == 3
    assert table["width"][0] == 320
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ExtraMissing, match="pip install pandas"):
        hits.to_pandas()


def test_hits_are_drawn_with_captions(index: sightline.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    figure = index.search(scene(1), k=7).plot(columns=3)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 9
    assert titles[0] == "1.000\nplain.bin.png"
    assert sum(bool(axes.images) for axes in figure.axes) == 7
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    assert np.asarray(Image.open(buffer)).std() > 10
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ExtraMissing, match="pip install matplotlib"):
        index.search(scene(1)).plot()
