"""XMP: what photo programs write of a picture, in the picture or in a file beside it.

Adobe, XMP Specification Part 1 (ISO 16684-1) and Part 2; Dublin Core, Photoshop, EXIF and digiKam namespaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from sightline.moments import moment
from sightline.types import Value

if TYPE_CHECKING:
    from xml.etree import ElementTree

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_NAMESPACES = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/lightroom/1.0/": "lr",
    "http://www.digikam.org/ns/1.0/": "digiKam",
}
_MOST_BYTES = 8 << 20
_LONGEST = 10_000  # characters of a text
_MOST_KEYWORDS = 1_000
_DATES = ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate")
_COORDINATE = re.compile(
    r"(\d{1,3}), ?(\d{1,2}(?:\.\d+)?)(?:, ?(\d{1,2}(?:\.\d+)?))? ?(N|S|E|W|north|south|east|west)", re.IGNORECASE
)


def payload_of(packet: bytes) -> dict[str, Value]:
    """Title, caption, tags, rating (-1 to 5), taken, latitude and longitude, as far as the packet tells them.

    A packet that is broken, too large, or declares entities tells nothing: it never raises.
    """
    start, end = packet.find(b"<"), packet.rfind(b">")
    if not 0 <= start < end or len(packet) > _MOST_BYTES or b"<!ENTITY" in packet or b"<!DOCTYPE" in packet:
        return {}
    from xml.etree import ElementTree  # 10 ms that a search does not need

    try:
        root = ElementTree.fromstring(_alone(packet[start : end + 1]))
    except (ElementTree.ParseError, ValueError, LookupError):
        return {}
    told = dict[str, list[str]]()
    for name, values in _properties(root):
        told.setdefault(name, values)
    found: dict[str, Value | None] = {
        "title": _first(told, "dc:title", "photoshop:Headline"),
        "caption": _first(told, "dc:description"),
        "tags": _keywords(told) or None,
        "rating": _rating(told),
        "taken": _taken(told),
    }
    latitude, longitude = (_degrees(_first(told, f"exif:GPS{name}") or "") for name in ("Latitude", "Longitude"))
    if latitude is not None and longitude is not None:
        found |= {"latitude": latitude, "longitude": longitude}
    return {name: value for name, value in found.items() if value is not None}


def _alone(packet: bytes) -> bytes:
    """Without the packet's wrapper `<?xpacket ...?>`, which may stand in front of an XML declaration."""
    return re.sub(rb"<\?xpacket.*?\?>", b"", packet, flags=re.DOTALL).strip()


def _properties(root: ElementTree.Element) -> Iterator[tuple[str, list[str]]]:
    """The properties of each description, which writers put into attributes or into elements."""
    for description in root.iter(f"{_RDF}Description"):
        for name, text in description.attrib.items():
            yield _short(name), [text]
        for element in description:
            items = sorted(element.iter(f"{_RDF}li"), key=lambda item: item.get(_LANGUAGE) != "x-default")
            yield _short(element.tag), [item.text or "" for item in items] or [element.text or ""]


def _short(name: str) -> str:
    namespace, _, local = name.lstrip("{").rpartition("}")
    return f"{_NAMESPACES.get(namespace, '')}:{local}"


def _first(told: dict[str, list[str]], *names: str) -> str | None:
    texts = (_clean(text) for name in names for text in told.get(name, []))
    return next(filter(None, texts), None)


def _clean(text: str) -> str:
    return " ".join(text.replace("\0", " ").split())[:_LONGEST]


def _keywords(told: dict[str, list[str]]) -> list[str]:
    """Keywords in their order; of hierarchies (`People|Anna`, `People/Anna`) the last part."""
    plain = [_clean(text) for text in told.get("dc:subject", [])]
    deep = [
        re.split(r"[|/]", text)[-1]
        for name in ("lr:hierarchicalSubject", "digiKam:TagsList")
        for text in told.get(name, [])
    ]
    return list(dict.fromkeys(filter(None, plain or map(_clean, deep))))[:_MOST_KEYWORDS]


def _rating(told: dict[str, list[str]]) -> int | None:
    with suppress(ValueError):
        rating = float(_first(told, "xmp:Rating") or "")
        return int(rating) if rating in range(-1, 6) else None
    return None


def _taken(told: dict[str, list[str]]) -> datetime | None:
    """Times without an offset are taken to be in UTC, as those of cameras are."""
    return next(filter(None, (moment(_first(told, name) or "") for name in _DATES)), None)


def _degrees(text: str) -> float | None:
    """`30,36.5N` and `30,36,30N` -> 30.608333; south and west are negative."""
    match = _COORDINATE.fullmatch(text.strip())
    if not match:
        return None
    degrees, minutes, seconds, side = *match.groups()[:3], match[4][0]
    if float(minutes) >= 60 or float(seconds or 0) > 60:
        return None
    value = int(degrees) + float(minutes) / 60 + float(seconds or 0) / 3600
    if value > (90 if side.upper() in "NS" else 180):
        return None
    return round(-value if side.upper() in "SW" else value, 7)
