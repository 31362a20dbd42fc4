from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base
from PIL.PngImagePlugin import PngInfo
from tests.pictures import COLOURED, encoded, photograph, quarters, turned

from sightline.errors import ImageError
from sightline.images.metadata import metadata
from sightline.images.read import open_picture


def known(**tags: Any) -> dict[str, Any]:
    """What is read of a photograph with these tags, both ways of asking being equal."""
    data = photograph(**tags)
    assert metadata(data) == open_picture(data, image_size=16).payload
    return metadata(data)


def test_a_photograph_tells_when_where_and_by_what() -> None:
    assert known() == {
        "width": 96,
        "height": 64,
        "format": "jpeg",
        "taken": datetime(2021, 7, 5, 14, 3, 22, tzinfo=timezone(timedelta(hours=2))),
        "camera": "Canon EOS 5D",
        "latitude": 52.52,
        "longitude": -13.41,
    }


@pytest.mark.parametrize("name", COLOURED)
def test_every_format_tells_its_size(name: str) -> None:
    payload = metadata(COLOURED[name]())
    assert (payload["width"], payload["height"]) == (96, 64)
    names = {"jpg": "jpeg", "mpo": "jpeg", "tif": "tiff"}
    suffix = name.rpartition(".")[2]
    assert payload["format"] == names.get(suffix, suffix)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_format_that_stores_exif_is_asked_for_it(file_format: str) -> None:
    exif = Image.open(BytesIO(photograph())).getexif()
    payload = metadata(encoded(quarters(), file_format, exif=exif))
    assert (payload["camera"], payload["latitude"]) == ("Canon EOS 5D", 52.52)
    assert payload["taken"] == datetime(2021, 7, 5, 12, 3, 22, tzinfo=UTC)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_width_and_height_are_those_of_the_upright_picture(orientation: int) -> None:
    payload = metadata(turned(orientation))
    assert (payload["width"], payload["height"]) == (96, 64)


def test_sizes_are_those_of_the_file_even_if_it_is_decoded_smaller() -> None:
    picture = open_picture(encoded(quarters((1600, 1200)), "JPEG"), image_size=100)
    assert picture.image.size == (400, 300)
    assert (picture.payload["width"], picture.payload["height"]) == (1600, 1200)


@pytest.mark.parametrize("offset", [None, "", "Z", "+25:00", "02:00", "\0\0\0"])
def test_without_a_sound_offset_a_camera_runs_on_utc(offset: str | None) -> None:
    assert known(OffsetTimeOriginal=offset)["taken"] == datetime(2021, 7, 5, 14, 3, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("date", "hour", "minute"),
    [
        ("2021:07:05 02:03:22 PM", 14, 3),
        ("2021:07:05 2:03:22pm", 14, 3),
        ("2021:07:05 12:03:22 AM", 0, 3),
        ("2021:07:05 12:03:22 p.m.", 12, 3),
        ("2021:07:05 14:03:22 PM", 14, 3),
        ("2021/07/05 14:03:22", 14, 3),
        ("2021-07-05 14:03:22", 14, 3),
        ("2021-07-05T14:03:22", 14, 3),
        ("2021.07.05 14:03:22", 14, 3),
        ("2021:7:5 4:3:2", 4, 3),
        ("2021: 7: 5  4: 3:22", 4, 3),
        ("  2021:07:05 14:03:22  ", 14, 3),
        ("2021:07:05:14:03:22", 14, 3),
        ("2021:07:05 14:03", 14, 3),
        ("2021:07:05 14:03:22.125", 14, 3),
        ("2021:07:05", 0, 0),
    ],
)
def test_dates_as_cameras_write_them(date: str, hour: int, minute: int) -> None:
    taken = known(DateTimeOriginal=date, OffsetTimeOriginal=None)["taken"]
    assert (taken.year, taken.month, taken.day, taken.hour, taken.minute) == (2021, 7, 5, hour, minute)
    assert taken.tzinfo == UTC


@pytest.mark.parametrize(
    "date",
    [
        "05/07/2021 14:03:22",
        "5.7.2021",
        "21:07:05 14:03:22",
        "2021:07:05 13:03:22 AM",
        "2021:07:05 24:00:00",
        "2021:07:05 14:60:00",
        "2021:02:29 14:00:00",
        "2021:07",
        "2021",
        "2021:07-05 14:03:22",
        "2021:07:05 14:03:22 and more",
        "2021:07:05 14:03:22 +99:00",
        "1600:01:01 00:00:00",
        "1625493802",
    ],
)
def test_a_date_that_is_not_certain_is_left_out(date: str) -> None:
    assert "taken" not in known(DateTimeOriginal=date, OffsetTimeOriginal=None)


@pytest.mark.parametrize(
    ("offset", "hours"),
    [
        ("+02:00", 2),
        ("+0200", 2),
        ("+2:00", 2),
        ("+02", 2),
        ("+2", 2),
        ("UTC+2", 2),
        ("GMT+02:00", 2),
        ("-05:30", -5.5),
        (" -530", -5.5),
        ("+14:00", 14),
        ("Z", 0),
        ("+14:30", 0),
        ("2", 0),
        ("CEST", 0),
    ],
)
def test_offsets_in_odd_forms(offset: str, hours: float) -> None:
    taken = known(OffsetTimeOriginal=offset)["taken"]
    assert taken == datetime(2021, 7, 5, 14, 3, 22, tzinfo=timezone(timedelta(hours=hours)))
    inside = known(DateTimeOriginal="2021:07:05 14:03:22+01:00", OffsetTimeOriginal=offset)["taken"]
    assert inside.utcoffset() == timedelta(hours=1)


def test_other_dates_stand_in_for_that_of_the_exposure() -> None:
    only = {"DateTimeOriginal": None, "OffsetTimeOriginal": None}
    assert known(**only, DateTime="2020:01:02 03:04:05")["taken"] == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreateDate="2019-05-06T07:08:09-03:00"/>'
        b"</rdf:RDF></x:xmpmeta>"
    )
    image = quarters()
    exif = Image.Exif()
    exif[Base.DateTime] = "2020:01:02 03:04:05"
    payload = metadata(encoded(image, "JPEG", xmp=packet, exif=exif))  # XMP's is a creation, EXIF's may be of an edit
    assert payload["taken"] == datetime(2019, 5, 6, 7, 8, 9, tzinfo=timezone(timedelta(hours=-3)))
    for text in ("Mon, 6 May 2019 07:08:09 -0300", "6 May 2019 07:08:09 -0300", "2019:05:06 07:08:09-03:00"):
        notes = PngInfo()
        notes.add_text("Creation Time", text)
        payload = metadata(encoded(image, "PNG", pnginfo=notes))
        assert payload["taken"] == datetime(2019, 5, 6, 7, 8, 9, tzinfo=timezone(timedelta(hours=-3)))
    notes = PngInfo()
    notes.add_text("Creation Time", "in May")
    assert "taken" not in metadata(encoded(image, "PNG", pnginfo=notes))


@pytest.mark.parametrize(
    ("south", "west", "place"),
    [
        ("South", "West", (-52.52, -13.41)),
        ("south ", "w", (-52.52, -13.41)),
        ("North", "East", (52.52, 13.41)),
        ("N", "O", None),
        ("", "E", None),
        (None, "E", None),
        ("E", "N", None),
    ],
)
def test_references_of_places_may_be_spelt_out(south: str | None, west: str, place: tuple[float, float] | None) -> None:
    payload = known(GPSLatitudeRef=south, GPSLongitudeRef=west)
    assert (payload.get("latitude"), payload.get("longitude")) == (place or (None, None))


def test_minutes_beyond_sixty_are_no_place() -> None:
    assert "latitude" not in known(GPSLatitude=(52.0, 75.0, 0.0))


@pytest.mark.parametrize(
    "date", ["0000:00:00 00:00:00", "    :  :     :  :  ", "2021:13:45 25:61:61", "soon", "", None]
)
def test_an_impossible_date_is_left_out(date: str | None) -> None:
    payload = known(DateTimeOriginal=date)
    assert "taken" not in payload
    assert payload["camera"] == "Canon EOS 5D"


def test_the_date_of_digitising_stands_in() -> None:
    payload = known(DateTimeOriginal=None, OffsetTimeOriginal=None, DateTimeDigitized="1999:12:31 23:59:59")
    assert payload["taken"] == datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("Google", "Pixel 7", "Google Pixel 7"),
        ("Apple  ", "iPhone\n 15 Pro\0garbage", "Apple iPhone 15 Pro"),
        (None, "DSC-W830", "DSC-W830"),
        ("SONY", None, "SONY"),
        (" ", "\0", None),
    ],
)
def test_the_camera_is_one_tidy_name(make: str | None, model: str | None, camera: str | None) -> None:
    assert known(Make=make, Model=model).get("camera") == camera


@pytest.mark.parametrize(
    "place",
    [
        {"GPSLatitude": None},
        {"GPSLatitude": (91.0, 0.0, 0.0)},
        {"GPSLatitude": (0.0, 0.0, 0.0), "GPSLongitude": (0.0, 0.0, 0.0)},
        {"GPSLongitude": (181.0, 0.0, 0.0)},
        {"GPSLongitude": 5.0},
    ],
)
def test_an_impossible_place_is_left_out(place: dict[str, Any]) -> None:
    payload = known(**place)
    assert "latitude" not in payload
    assert "longitude" not in payload
    assert payload["camera"] == "Canon EOS 5D"


def test_south_is_negative() -> None:
    assert known(GPSLatitudeRef="S", GPSLongitudeRef="E") | {"taken": None} == known() | {
        "taken": None,
        "latitude": -52.52,
        "longitude": 13.41,
    }


def test_broken_exif_never_costs_the_picture() -> None:
    data = photograph()
    start = data.index(b"Exif\0\0") + 6
    end = data.index(b"\xff\xdb", start)
    chance = np.random.default_rng(2)
    for _ in range(300):
        damaged = bytearray(data)
        for position in chance.integers(start, end, 6):
            damaged[position] = chance.integers(0, 256)
        try:
            payload = open_picture(bytes(damaged), image_size=16).payload
        except ImageError as error:
            pytest.fail(f"{error} ({bytes(damaged[start:end])!r})")
        assert {payload["width"], payload["height"]} == {96, 64}
        for key, value in payload.items():
            assert isinstance(value, int | float | str | datetime), key
            assert not isinstance(value, str) or value.encode("utf-8").isascii() or value.isprintable()
            assert not isinstance(value, datetime) or value.tzinfo is not None


def test_a_picture_that_cannot_be_opened_has_no_metadata() -> None:
    with pytest.raises(ImageError):
        metadata(b"text")
