"""The URL of a Qdrant store turned into where it is and how it is used."""

import re
from dataclasses import dataclass

from sightline.errors import UsageError
from sightline.stores.url import Address, StoreUrl, parse_address

OPTIONS = (
    "collection",
    "consistency",
    "grpc",
    "grpc_port",
    "indexes",
    "on_disk",
    "ordering",
    "patience_s",
    "replicas",
    "shards",
    "timeout_s",
    "tls",
    "write_consistency",
)
KINDS = ("text", "number", "truth", "time")
NOTES = "_notes"
"""What stands behind the name of a collection in the name of the one that keeps its notes."""

_LONGEST_NAME = 255 - len(NOTES)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


@dataclass(frozen=True, slots=True)
class Settings:
    """How a store was asked for. `folder` is empty for a server; None leaves a number to the server.

    `indexes` are (field, kind) pairs that the URL asks for beside those that every store has.
    """

    address: Address
    folder: str
    name: str
    port: int
    grpc_port: int
    is_tls: bool
    is_grpc: bool
    is_on_disk: bool
    shards: int | None
    replicas: int | None
    write_consistency: int | None
    ordering: str
    consistency: str | int | None
    indexes: tuple[tuple[str, str], ...]
    timeout_s: int
    patience_s: int

    @property
    def notes(self) -> str:
        """The collection of the notes."""
        return self.name + NOTES


def settings_of(url: str | StoreUrl) -> Settings:
    """The parts of a URL; `UsageError` for what cannot be."""
    address = parse_address(url, OPTIONS)
    folder = "" if address.host else _folder(address.name)
    return Settings(
        address=address,
        folder=folder,
        name=_collection(address),
        port=address.port or 6333,
        grpc_port=address.number("grpc_port", (address.port or 6333) + 1),
        is_tls=address.is_on("tls"),
        is_grpc="grpc" not in address.options or address.is_on("grpc"),
        is_on_disk=address.is_on("on_disk"),
        shards=address.number("shards", 0) or None,
        replicas=address.number("replicas", 0) or None,
        write_consistency=address.number("write_consistency", 0) or None,
        ordering=_one_of(address, "ordering", ("weak", "medium", "strong")) or "weak",
        consistency=_consistency(address),
        indexes=_indexes(address),
        timeout_s=address.number("timeout_s", 60),
        patience_s=address.number("patience_s", 30),
    )


def _folder(name: str) -> str:
    return name if re.match(r"[A-Za-z]:", name) else f"/{name}"


def _collection(address: Address) -> str:
    given = address.options.get("collection", "")
    name = (address.name if address.host else given or "photos") if not (address.host and given) else ""
    if address.host and given:
        raise UsageError(
            f"{address.text} names a collection twice, as {address.name!r} and as collection={given}: "
            "expected it in the path alone, so leave the option out"
        )
    if _FORBIDDEN.search(name) or name in (".", "..") or len(name.encode()) > _LONGEST_NAME:
        raise UsageError(
            f"{name!r} cannot name a collection of Qdrant, expected at most {_LONGEST_NAME} bytes without "
            '< > : " / \\ | ? * and control characters: choose another name'
        )
    return name


def _one_of(address: Address, option: str, known: tuple[str, ...]) -> str:
    text = address.options.get(option, "").lower()
    if text and text not in known:
        raise UsageError(f"{option}={text} of {address.text} is unknown, expected one of {', '.join(known)}: use one")
    return text


def _consistency(address: Address) -> str | int | None:
    if address.options.get("consistency", "").isdecimal():
        return address.number("consistency", 1) or None
    return _one_of(address, "consistency", ("majority", "quorum", "all")) or None


def _indexes(address: Address) -> tuple[tuple[str, str], ...]:
    pairs = list[tuple[str, str]]()
    for one in filter(None, address.options.get("indexes", "").split(",")):
        field, colon, kind = one.rpartition(":")
        field, kind = (field, kind) if colon else (one, "text")
        if kind not in KINDS or not field:
            raise UsageError(
                f"indexes={one} of {address.text} has the kind {kind!r}, expected one of {', '.join(KINDS)}: "
                "write it like indexes=color,width:number"
            )
        pairs.append((field, kind))
    return tuple(pairs)
