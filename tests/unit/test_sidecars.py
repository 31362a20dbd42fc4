"""What stands beside a picture becomes its payload, in folders and archives alike."""

import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from PIL.PngImagePlugin import PngInfo
from tests.pictures import encoded, photograph, scene

from sightline.encoders.baselines import PixelsEncoder
from sightline.ingest import Options, ingest
from sightline.sources.base import open_source
from sightline.stores.memory import MemoryStore
from sightline.types import Payload
from sightline.xmp import payload_of

TAKEOUT = {
    "title": "a.jpg",
    "description": "Grandma's birthday",
    "photoTakenTime": {"timestamp": "1258375918"},
    "geoData": {"latitude": 30.6, "longitude": 104.07},
    "people": [{"name": "Anna"}],
}
XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:exif="http://ns.adobe.com/exif/1.0/" xmp:Rating="4" exif:GPSLatitude="30,36.5S" exif:GPSLongitude="104,4,12E">
<dc:subject><rdf:Bag><rdf:li>wedding</rdf:li><rdf:li>garden</rdf:li></rdf:Bag></dc:subject>
<dc:title><rdf:Alt><rdf:li xml:lang="de">Hochzeit</rdf:li>
<rdf:li xml:lang="x-default">Wedding</rdf:li></rdf:Alt></dc:title>
<exif:DateTimeOriginal>2019-05-01T14:30:00+02:00</exif:DateTimeOriginal>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def folder(top: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return top


def payloads(source: Path) -> dict[str, Payload]:
    """What an index knows of the pictures of a source, by name."""
    encoder = PixelsEncoder()
    store = MemoryStore(encoder.dim)
    ingest(open_source(source), encoder, store, options=Options(workers=1), seen=set())
    return {str(record.payload["name"]): record.payload for record in store.scan()}


PICTURE = encoded(scene(1), "JPEG")


@pytest.mark.parametrize(
    ("beside", "content", "told"),
    [
        ("a.txt", "a dog\n", {"caption": "a dog"}),
        ("a.caption", "a dog", {"caption": "a dog"}),
        ("a.cls", "3", {"label": 3}),
        ("a.json", '{"caption": "a dog", "n": 2}', {"caption": "a dog", "n": 2}),
        ("a.xmp", XMP, {"tags": ["wedding", "garden"], "title": "Wedding", "latitude": -30.6083333}),
        ("a.jpg.xmp", XMP, {"rating": 4}),
        ("A.XMP", XMP, {"rating": 4}),
        ("a.jpg.json", json.dumps(TAKEOUT), {"caption": "Grandma's birthday", "people": ["Anna"], "latitude": 30.6}),
        ("a.jpg.supplemental-metadata.json", json.dumps(TAKEOUT), {"caption": "Grandma's birthday"}),
        ("b.txt", "of another", {}),
        ("a.json", "[" * 100_000, {}),
        ("a.json", "not JSON", {}),
        ("a.xmp", "<x", {}),
    ],
)  # fmt: skip
def test_a_file_beside_a_picture_tells_of_it(tmp_path: Path, beside: str, content: str, told: dict[str, Any]) -> None:
    found = payloads(folder(tmp_path / "pictures", {"a.jpg": PICTURE, beside: content}))["a.jpg"]
    assert {name: found.get(name) for name in told} == told
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("2019/a.jpg", PICTURE)
        archive.writestr(f"2019/{beside}", content)
    in_archive = payloads(tmp_path / "a.zip")["a.jpg"]
    if beside != "A.XMP":  # names in an archive are what they are
        assert {name: in_archive.get(name) for name in told} == told
    if not told:
        assert not {"caption", "tags", "label"} & {*found, *in_archive}


@pytest.mark.parametrize(
    ("picture", "beside"),
    [
        ("a(1).jpg", "a.jpg(1).json"),
        ("a-edited.jpg", "a.jpg.json"),
        ("a_picture_with_a_name_of_forty_and_more_let.jpg", "a_picture_with_a_name_of_forty_and_more_let.jp.json"),
        ("IMG_20190501_143000123.jpg", "IMG_20190501_143000123.jpg.supplemental-metada.json"),
    ],
)
def test_takeout_shortens_and_numbers_names(tmp_path: Path, picture: str, beside: str) -> None:
    found = payloads(folder(tmp_path, {picture: PICTURE, beside: json.dumps(TAKEOUT)}))
    assert found[picture]["caption"] == "Grandma's birthday"


def test_the_time_in_the_picture_is_better_than_takeouts(tmp_path: Path) -> None:
    dated = photograph(DateTimeOriginal="2009:11:16 20:51:58", OffsetTimeOriginal="+08:00")
    found = payloads(
        folder(
            tmp_path,
            {"a.jpg": dated, "a.jpg.json": json.dumps(TAKEOUT), "b.jpg": PICTURE, "b.jpg.json": json.dumps(TAKEOUT)},
        )
    )
    assert found["a.jpg"]["taken"] == datetime(2009, 11, 16, 20, 51, 58, tzinfo=timezone(timedelta(hours=8)))
    assert found["b.jpg"]["taken"] == datetime(2009, 11, 16, 12, 51, 58, tzinfo=UTC)


def test_the_table_of_a_folder_tells_of_the_pictures_below(tmp_path: Path) -> None:
    lines = [{"file_name": "cat/1.jpg", "text": "a cat"}, {"file_name": "2.jpg", "caption": "a dog", "n": 2}]
    files: dict[str, str | bytes] = {
        "cat/1.jpg": PICTURE,
        "2.jpg": PICTURE,
        "3.jpg": PICTURE,
        "2.txt": "the table is the last word",
    }
    text = "\n".join(map(json.dumps, lines)) + "\nbroken\n"
    found = payloads(folder(tmp_path / "jsonl", files | {"metadata.jsonl": text}))
    assert (found["1.jpg"]["caption"], found["2.jpg"]["caption"], found["2.jpg"]["n"]) == ("a cat", "a dog", 2)
    table = "file_name,caption\r\ncat/1.jpg,a cat\r\n"
    assert payloads(folder(tmp_path / "csv", files | {"metadata.csv": table}))["1.jpg"]["caption"] == "a cat"


def test_a_changed_sidecar_is_seen_and_encodes_nothing(tmp_path: Path) -> None:
    encoder = PixelsEncoder()
    store = MemoryStore(encoder.dim)
    for caption, encodes in (("one", 1), ("another", 0), ("another", 0)):
        if caption not in {record.payload.get("caption") for record in store.scan()}:
            folder(tmp_path, {"a.jpg": PICTURE, "a.txt": caption})
        summary = ingest(open_source(tmp_path), encoder, store, options=Options(workers=1), seen=set())
        assert summary.encoded == encodes
        assert [record.payload["caption"] for record in store.scan()] == [caption]
    single = next(iter(open_source(tmp_path / "a.jpg")))
    assert single.stamp == next(iter(store.scan())).payload["stamp"]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"<a>",
        XMP.replace("x:xmpmeta", "y:xmpmeta").encode(),
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        XMP.encode()
        .replace(b"2019-05-01", b"2019-13-01")
        .replace(b"30,36.5S", b"91,0N")
        .replace(b'"4"', b'"40"')[:-400],
    ],
)
def test_a_broken_packet_tells_nothing(packet: bytes) -> None:
    assert payload_of(packet) == {}


def test_what_cannot_be_right_is_left_out() -> None:
    wrong = XMP.replace("2019-05-01", "2019-13-01").replace("30,36.5S", "91,0N").replace('"4"', '"40"')
    assert payload_of(wrong.encode()) == {"title": "Wedding", "tags": ["wedding", "garden"]}
    assert payload_of(XMP.encode())["taken"] == datetime(2019, 5, 1, 14, 30, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_programs_write_into_a_picture_is_known(tmp_path: Path, file_format: str) -> None:
    options: dict[str, Any] = {"xmp": XMP.encode()}
    if file_format == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP)
        options = {"pnginfo": info}
    if file_format == "TIFF":
        options = {"tiffinfo": {700: XMP.encode()}}
    name = f"a.{file_format.lower()}"
    found = payloads(folder(tmp_path, {name: encoded(scene(1), file_format, **options)}))[name]
    assert (found["title"], found["tags"], found["rating"]) == ("Wedding", ["wedding", "garden"], 4)
    assert found["taken"] == datetime(2019, 5, 1, 14, 30, tzinfo=timezone(timedelta(hours=2)))


def iptc(*datasets: tuple[int, int, bytes]) -> bytes:
    """A JPEG with IPTC-IIM in Photoshop's segment."""
    records = b"".join(
        b"\x1c" + bytes(dataset[:2]) + len(dataset[2]).to_bytes(2, "big") + dataset[2] for dataset in datasets
    )
    resource = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4, "big") + records + b"\0" * (len(records) % 2)
    body = b"Photoshop 3.0\0" + resource
    return PICTURE[:2] + b"\xff\xed" + (len(body) + 2).to_bytes(2, "big") + body + PICTURE[2:]


def test_iptc_is_read_in_the_encoding_that_it_has(tmp_path: Path) -> None:
    words = [(2, 5, "Fr\u00fchling".encode()), (2, 25, b"one"), (2, 25, b"two"), (2, 120, b"a caption")]
    old = [(2, 5, "Fr\u00fchling".encode("latin-1"))]
    found = payloads(folder(tmp_path, {"a.jpg": iptc(*words), "b.jpg": iptc(*old)}))
    assert (found["a.jpg"]["title"], found["a.jpg"]["tags"]) == ("Fr\u00fchling", ["one", "two"])
    assert found["a.jpg"]["caption"] == "a caption"
    assert found["b.jpg"]["title"] == "Fr\u00fchling"
    beside = payloads(folder(tmp_path, {"a.txt": "the file beside it wins"}))
    assert beside["a.jpg"]["caption"] == "the file beside it wins"
