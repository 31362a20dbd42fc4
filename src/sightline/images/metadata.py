"""What a picture file says of itself, from its header and EXIF: size, format, when, where, with which camera."""

import re
from contextlib import suppress
from datetime import datetime
from math import isfinite
from typing import Any

from PIL.ExifTags import GPS, IFD, Base
from PIL.ImageFile import ImageFile
from PIL.IptcImagePlugin import getiptcinfo

from sightline.images.decode import DAMAGE, LIMIT_MEGAPIXELS, opened, orientation
from sightline.types import Value
from sightline.xmp import payload_of

_MAX_TEXT = 120  # characters of a camera's name; makers use up to 40


def metadata(data: bytes, *, limit_megapixels: float | None = LIMIT_MEGAPIXELS) -> dict[str, Value]:
    """What `payload` gives, for a picture of which only that is wanted; `ImageError` as from `read`.

    Formats that may store EXIF behind the pixels (PNG) are decoded for it.
    """
    with opened(data, limit_megapixels) as file:
        return payload(file, file.size)


def payload(file: ImageFile, size: tuple[int, int]) -> dict[str, Value]:
    """Width and height (upright), format, and where the file tells: taken, camera, latitude, longitude, and what people
    wrote into it: title, caption, tags, rating.

    `size` is the stored one, before a reduced decode. EXIF is the camera's word on time and place, XMP wins over IPTC.
    Broken metadata give fewer keys, never an error.
    """
    width, height = reversed(size) if orientation(file) >= 5 else size
    known: dict[str, Value | None] = {"width": width, "height": height, "format": str(file.format).lower()}
    known[DAMAGE] = file.info.get(DAMAGE)
    with suppress(Exception):  # Pillow's EXIF parser lets through whatever hostile bytes make it meet
        exif = file.getexif()
        details, place = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
        known["taken"] = _taken(details)
        known["camera"] = _camera(_text(exif.get(Base.Make)), _text(exif.get(Base.Model)))
        known |= _place(place)
    return {**_iptc(file), **_xmp(file), **{key: value for key, value in known.items() if value is not None}}


def _xmp(file: ImageFile) -> dict[str, Value]:
    packet = next((file.info[name] for name in ("xmp", "XML:com.adobe.xmp") if file.info.get(name)), b"")
    return payload_of(packet.encode("utf-8", "replace") if isinstance(packet, str) else bytes(packet))


def _iptc(file: ImageFile) -> dict[str, Value]:
    """IPTC-IIM 4.2, record 2: object name (5), keywords (25), caption (120)."""
    told = dict[tuple[int, int], Any]()
    with suppress(Exception):  # as with EXIF
        told = getiptcinfo(file) or {}
    is_utf8 = told.get((1, 90)) == b"\x1b%G"
    title, keywords, caption = (
        [text for value in (values if isinstance(values, list) else [values]) if (text := _iptc_text(value, is_utf8))]
        for values in (told.get((2, dataset), []) for dataset in (5, 25, 120))
    )
    found: dict[str, Value] = {"tags": keywords} if keywords else {}
    return found | {name: texts[0] for name, texts in (("title", title), ("caption", caption)) if texts}


def _iptc_text(value: bytes, is_utf8: bool) -> str:
    """UTF-8 where it says so or is valid, else Latin-1, which most programs wrote before."""
    try:
        text = value.decode("utf-8", "replace" if is_utf8 else "strict")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _taken(details: dict[int, Any]) -> datetime | None:
    """The moment of the exposure. Cameras that store no offset are taken to run on UTC."""
    for date, offset in (
        (Base.DateTimeOriginal, Base.OffsetTimeOriginal),
        (Base.DateTimeDigitized, Base.OffsetTimeDigitized),
    ):
        moment = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d:\d\d:\d\d)", _text(details.get(date)))
        if moment:
            year, month, day, time = moment.groups()
            with suppress(ValueError):  # 0000:00:00 is what a camera writes whose clock was never set
                return datetime.fromisoformat(f"{year}-{month}-{day}T{time}{_offset(_text(details.get(offset)))}")
    return None


def _offset(text: str) -> str:
    return text if re.fullmatch(r"[+-](?:0\d|1[0-4]):[0-5]\d", text) else "+00:00"


def _camera(make: str, model: str) -> str | None:
    """`Canon` and `Canon EOS 5D` -> `Canon EOS 5D`; `Google` and `Pixel 7` -> `Google Pixel 7`."""
    repeats = make and model and make.split()[0].casefold() == model.split()[0].casefold()
    return (model if repeats else f"{make} {model}".strip()) or None


def _place(place: dict[int, Any]) -> dict[str, Value | None]:
    """Degrees, north and east positive."""
    latitude = _degrees(place.get(GPS.GPSLatitude), place.get(GPS.GPSLatitudeRef), largest=90)
    longitude = _degrees(place.get(GPS.GPSLongitude), place.get(GPS.GPSLongitudeRef), largest=180)
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):  # 0, 0: a receiver without a fix
        return {}
    return {"latitude": latitude, "longitude": longitude}


def _degrees(parts: Any, reference: Any, *, largest: int) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in (*parts, 0, 0)[:3])
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if not (isfinite(value) and 0 <= value <= largest):
        return None
    return round(-value if _text(reference).upper() in ("S", "W") else value, 7)  # 7 digits: 1 cm


def _text(value: Any) -> str:
    """A tag's text: what follows a NUL cut off, control characters and double spaces gone, valid UTF-8."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    printable = "".join(letter if letter.isprintable() else " " for letter in text.split("\0")[0])
    return " ".join(printable.split())[:_MAX_TEXT]
