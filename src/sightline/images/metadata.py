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
from sightline.moments import moment
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
    created: datetime | None = None
    known[DAMAGE] = file.info.get(DAMAGE)
    with suppress(Exception):  # Pillow's EXIF parser lets through whatever hostile bytes make it meet
        exif = file.getexif()
        details, place = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
        known["taken"] = _taken(details)
        created = _created(file, _text(exif.get(Base.DateTime)), _text(details.get(Base.OffsetTime)))
        known["camera"] = _camera(_text(exif.get(Base.Make)), _text(exif.get(Base.Model)))
        known |= _place(place)
    certain = {name: value for name, value in known.items() if value is not None}
    told = {"taken": created, **_iptc(file), **_xmp(file), **certain}
    return {name: value for name, value in told.items() if value is not None}


def _xmp(file: ImageFile) -> dict[str, Value]:
    packet = next((file.info[name] for name in ("xmp", "XML:com.adobe.xmp") if file.info.get(name)), b"")
    return payload_of(packet.encode("utf-8", "replace") if isinstance(packet, str) else bytes(packet))


def _iptc(file: ImageFile) -> dict[str, Value]:
    """IPTC-IIM 4.2, record 2: object name (5), keywords (25), date and time created (55, 60), caption (120)."""
    told = dict[tuple[int, int], Any]()
    with suppress(Exception):  # as with EXIF
        told = getiptcinfo(file) or {}
    is_utf8 = told.get((1, 90)) == b"\x1b%G"
    title, keywords, caption = (
        [text for value in (values if isinstance(values, list) else [values]) if (text := _iptc_text(value, is_utf8))]
        for values in (told.get((2, dataset), []) for dataset in (5, 25, 120))
    )
    found: dict[str, Value] = {"tags": keywords} if keywords else {}
    day, time = (_iptc_text(told.get((2, part), b""), is_utf8) for part in (55, 60))
    if re.fullmatch(r"\d{8}", day):  # CCYYMMDD, and HHMMSS with an offset
        clock = re.fullmatch(r"(\d\d)(\d\d)(\d\d)([+-]\d{4})?", time)
        hours = f" {clock[1]}:{clock[2]}:{clock[3]}{clock[4] or ''}" if clock else ""
        if taken := moment(f"{day[:4]}-{day[4:6]}-{day[6:]}{hours}"):
            found["taken"] = taken
    return found | {name: texts[0] for name, texts in (("title", title), ("caption", caption)) if texts}


def _iptc_text(value: Any, is_utf8: bool) -> str:
    """UTF-8 where it says so or is valid, else Latin-1, which most programs wrote before."""
    if not isinstance(value, bytes):
        return ""
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
        if found := moment(_text(details.get(date)), _text(details.get(offset))):
            return found
    return None


def _created(file: ImageFile, changed: str, offset: str) -> datetime | None:
    """What stands in for the exposure: PNG's `Creation Time`, and EXIF's DateTime, which editors may have set."""
    text = file.info.get("Creation Time")
    return moment(text if isinstance(text, str) else "") or moment(changed, offset)


def _camera(make: str, model: str) -> str | None:
    """`Canon` and `Canon EOS 5D` -> `Canon EOS 5D`; `Google` and `Pixel 7` -> `Google Pixel 7`."""
    repeats = make and model and make.split()[0].casefold() == model.split()[0].casefold()
    return (model if repeats else f"{make} {model}".strip()) or None


def _place(place: dict[int, Any]) -> dict[str, Value | None]:
    """Degrees, north and east positive."""
    latitude = _degrees(place.get(GPS.GPSLatitude), place.get(GPS.GPSLatitudeRef), {"N": 1, "S": -1}, largest=90)
    longitude = _degrees(place.get(GPS.GPSLongitude), place.get(GPS.GPSLongitudeRef), {"E": 1, "W": -1}, largest=180)
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):  # 0, 0: a receiver without a fix
        return {}
    return {"latitude": latitude, "longitude": longitude}


def _degrees(parts: Any, reference: Any, signs: dict[str, int], *, largest: int) -> float | None:
    """Of (degrees, minutes, seconds); the reference may be spelt out (`South`), and without one there is no side."""
    sign = signs.get(_text(reference)[:1].upper())
    try:
        degrees, minutes, seconds = (float(part) for part in (*parts, 0, 0)[:3])
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if sign is None or not (isfinite(value) and 0 <= value <= largest and 0 <= minutes < 60 and 0 <= seconds <= 60):
        return None
    return round(sign * value, 7)  # 7 digits: 1 cm


def _text(value: Any) -> str:
    """A tag's text: what follows a NUL cut off, control characters and double spaces gone, valid UTF-8."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    printable = "".join(letter if letter.isprintable() else " " for letter in text.split("\0")[0])
    return " ".join(printable.split())[:_MAX_TEXT]
