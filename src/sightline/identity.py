"""What an index says of the model that built it, compared with the model that opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sightline.encoders.base import load_encoder, picture_fingerprint
from sightline.errors import EncoderError, IndexMismatch

if TYPE_CHECKING:
    from sightline.encoders.base import Encoder
    from sightline.encoders.hub import Hub


def check(url: str, encoder: Encoder, identity: Mapping[str, Any], hub: Hub | None) -> None:
    """Refuse a model that gives pictures other vectors; its name and its text tower may be others.

    `identity` is the note that the index keeps of its builder. Raises `IndexMismatch`.
    """
    built_with, fingerprint = identity.get("encoder", encoder.name), identity.get("fingerprint")
    if encoder.name == built_with and encoder.fingerprint == (fingerprint or encoder.fingerprint):
        return
    if picture_fingerprint(encoder) == (identity.get("pictures") or _pictures_of_builder(identity, hub)):
        return
    if encoder.name != built_with:
        raise IndexMismatch(
            f"{url} was built with {built_with!r}, not {encoder.name!r}: "
            f"open it with --model {built_with}, or build a new index"
        )
    raise IndexMismatch(
        f"{url} was built with other weights of {encoder.name!r} ({fingerprint}, "
        f"now {encoder.fingerprint}): build a new index, or use the model files it was built with"
    )


def _pictures_of_builder(identity: Mapping[str, Any], hub: Hub | None) -> str | None:
    """The picture fingerprint that an index lacks which was built before it was written down.

    From the model that built it, where that is on this disk and still the same.
    """
    from sightline.encoders.hub import Hub

    try:
        builder = load_encoder(str(identity.get("load")), hub=replace(hub or Hub.from_environment(), offline=True))
    except EncoderError:
        return None
    return picture_fingerprint(builder) if builder.fingerprint == identity.get("fingerprint") else None
