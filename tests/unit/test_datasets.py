"""Each recipe turns a small stand-in, laid out as the original, into what can be indexed and measured on."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from tests.archives import make_tar, make_zip
from tests.pictures import encoded, scene
from tests.serving import answering

from sightline.cli.main import main
from sightline.datasets.recipes import File, Recipe, fetch, get, recipe, recipes
from sightline.errors import SourceError, UsageError
from sightline.evaluate.judgements import load
from sightline.index import Index
from sightline.sources.base import Opening, open_source


def make_imagenette(folder: Path) -> None:
    classes = ("n01440764", "n02102040")
    names = [
        f"imagenette2-320/{split}/{name}/{name}_{n}.JPEG"
        for split in ("train", "val")
        for name in classes
        for n in (1, 2)
    ]
    pictures = {name: encoded(scene(n), "JPEG") for n, name in enumerate(names)}
    make_tar(folder / "imagenette2-320.tgz", pictures | {"imagenette2-320/noisy_imagenette.csv": b"path"}, "w:gz")


def make_flickr8k(folder: Path) -> None:
    names = ["1.jpg", "2.jpg", "3.jpg"]
    make_zip(
        folder / "Flickr8k_Dataset.zip",
        {f"Flicker8k_Dataset/{name}": encoded(scene(n), "JPEG") for n, name in enumerate(names)}
        | {"__MACOSX/Flicker8k_Dataset/._1.jpg": b"x"},
    )
    captions = "".join(f"{name}#{n}\tA dog , number {n} .\n" for name in [*names, "4.jpg.1"] for n in range(5))
    splits = {
        f"Flickr_8k.{split}Images.txt": f"{name}\n".encode()
        for split, name in zip(("train", "dev", "test"), names, strict=True)
    }
    make_zip(folder / "Flickr8k_text.zip", {"Flickr8k.token.txt": captions.encode(), "readme.txt": b"", **splits})


def make_conceptual_captions(folder: Path) -> None:
    (folder / "GCC-1.1.0-Validation.tsv").write_text(
        'author : a life in photography\thttp://127.0.0.1:1/a.jpg?x=1\n"an angler" fishes\thttp://127.0.0.1:1/b\n',
        "utf-8",
    )


def make_fashion_products(folder: Path) -> None:
    styles = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName\n"
    styles += "1163,Men,Apparel,Topwear,Tshirts,Blue,Summer,2011,Sports,Nike Sahara Team India Jersey\n"
    styles += "1164,Men,Apparel,Topwear,Tshirts,Blue,Winter,2015,Sports,Blue Jersey, size M\n"
    styles += "9999,Men,Apparel,Topwear,Tshirts,Blue,Winter,2015,Sports,No picture of it\n"
    files = {"styles.csv": styles.encode()} | {f"images/{n}.jpg": encoded(scene(n), "JPEG") for n in (1163, 1164)}
    make_zip(
        folder / "fashion-product-images-small.zip",
        files | {f"myntradataset/{name}": data for name, data in files.items()},
    )


MAKERS: dict[str, Callable[[Path], None]] = {
    "imagenette": make_imagenette,
    "flickr8k": make_flickr8k,
    "conceptual-captions": make_conceptual_captions,
    "fashion-products": make_fashion_products,
}


class Served(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


@contextmanager
def mirror(folder: Path) -> Iterator[str]:
    with answering(partial(Served, directory=str(folder))) as address:
        yield f"http://{address}"


def unchecked(name: str) -> Recipe:
    """The stand-in has another checksum than the original."""
    known = recipe(name)
    return replace(known, files=tuple(replace(file, sha256="") for file in known.files))


@pytest.fixture
def got(tmp_path: Path) -> Callable[[str], Path]:
    def fetched(name: str) -> Path:
        (tmp_path / "served").mkdir(exist_ok=True)
        MAKERS[name](tmp_path / "served")
        with mirror(tmp_path / "served") as url:
            place = get(unchecked(name), tmp_path / name, base_url=url)
        assert get(unchecked(name), tmp_path / name, base_url="http://127.0.0.1:1") == place  # a finished one is there
        card = json.loads((tmp_path / name / "dataset.json").read_text("utf-8"))
        assert card["licence"] == recipe(name).licence
        assert not list((tmp_path / name).rglob("*.part"))
        return place

    return fetched


def test_every_recipe_has_a_stand_in() -> None:
    assert recipes().keys() == MAKERS.keys()


def test_imagenette_becomes_folders_of_classes(got: Callable[[str], Path]) -> None:
    place = got("imagenette")
    judged = load(place / "val")
    assert list(judged.queries) == ["English springer", "tench"]
    assert len(judged.images) == 4
    assert len(list(open_source(place))) == 8


def test_flickr8k_becomes_captions_with_splits(got: Callable[[str], Path]) -> None:
    place = got("flickr8k")
    judged = load(place, images=place.parent / "images", split="dev")
    assert (len(judged.images), len(judged.queries)) == (1, 5)
    items = list(open_source(place, Opening(base=place.parent / "images")))
    assert [item.payload["split"] for item in items] == ["train", "dev", "test"]
    assert len(items[0].payload["caption"]) == 5  # type: ignore[arg-type]
    assert all(item.read() for item in items)


def test_conceptual_captions_becomes_a_table_of_urls(got: Callable[[str], Path]) -> None:
    items = list(open_source(got("conceptual-captions")))
    assert [item.uri for item in items] == ["http://127.0.0.1:1/a.jpg?x=1", "http://127.0.0.1:1/b"]
    assert [item.payload["caption"] for item in items] == ["author : a life in photography", '"an angler" fishes']


def test_fashion_products_become_a_table_with_categories(got: Callable[[str], Path], tmp_path: Path) -> None:
    place = got("fashion-products")
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(open_source(place, Opening(base=place.parent / "images"))).encoded == 2
        assert index.count({"articleType": "Tshirts", "year": 2011}) == 1
        names = {record.payload["caption"] for record in index.store.scan()}
        assert names == {"Nike Sahara Team India Jersey", "Blue Jersey, size M"}


def test_a_file_with_another_checksum_is_refused(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.zip").write_bytes(b"something else")
    with mirror(tmp_path / "served") as url, pytest.raises(SourceError, match=r"has the sha256 .*, expected abc"):
        fetch(File(f"{url}/a.zip", "1 kB", "abc"), tmp_path / "to", on_bytes=lambda _: None)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_fetch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = b"0123456789" * 1000
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.zip").write_bytes(data)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a.zip.part").write_bytes(data[:4000])
    file = File("", "", hashlib.sha256(data).hexdigest(), "a.zip")
    with mirror(tmp_path / "served") as url:  # this server knows no ranges: the file starts over
        assert fetch(file, tmp_path / "to", base_url=url, on_bytes=lambda _: None).read_bytes() == data
    with pytest.raises(SourceError, match="answers 404"), mirror(tmp_path / "served") as url:
        fetch(replace(file, name="b.zip"), tmp_path / "to", base_url=url, on_bytes=lambda _: None)


def test_a_misspelt_name_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean flickr8k"):
        recipe("flicker8k")


def test_the_command_says_the_licence_and_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_fashion_products(tmp_path)
    with mirror(tmp_path) as url:
        assert main(["datasets", "get", "fashion-products", "--output", str(tmp_path / "set"), "--mirror", url]) == 0
    told = capsys.readouterr()
    assert "licence: MIT" in told.err
    assert f"sightline index {tmp_path / 'set' / 'captions.tsv'} --images {tmp_path / 'set' / 'images'}" in told.out
    assert "has 2 rows" in told.out
    assert main(["datasets", "list"]) == 0
    assert "non-commercial" in capsys.readouterr().out


def test_a_host_that_is_not_there_is_said_soon_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "set"
    began = time.monotonic()
    assert main(["datasets", "get", "imagenette", "--output", str(output), "--mirror", "http://127.0.0.1:1"]) == 2
    assert time.monotonic() - began < 5
    assert "onnection refused): try again where there is a network" in capsys.readouterr().err
    assert not caplog.records
    assert not output.exists()


def test_a_mirror_that_is_no_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the mirror is 'host/files', expected a URL"):
        get(recipe("imagenette"), tmp_path / "set", base_url="host/files")
