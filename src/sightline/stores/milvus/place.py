"""The URL of a Milvus index turned into what the client needs to know."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sightline.errors import UsageError
from sightline.stores.retries import PATIENCE_S
from sightline.stores.url import StoreUrl, parse_address

INDEXES = ("hnsw", "ivf", "flat")
CONSISTENCIES = {"strong": "Strong", "session": "Session", "bounded": "Bounded", "eventually": "Eventually"}
NOTES_SUFFIX = "_notes"

_OPTIONS = (
    "collection",
    "db",
    "tls",
    "ca_file",
    "index",
    "m",
    "ef_construction",
    "nlist",
    "consistency",
    "partition_key",
    "replicas",
    "shards",
    "patience_s",
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME = 255 - len(NOTES_SUFFIX)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index is and how it is made. `file` is set for Milvus Lite, `uri` for a server; `text` is for messages.

    `index` to `shards` count when the collections are made, and are ignored afterwards.
    """

    text: str
    collection: str
    file: Path | None
    uri: str
    token: str
    database: str
    ca_file: str
    index: str
    m: int
    ef_construction: int
    nlist: int
    partition_key: str
    replicas: int
    shards: int
    consistency: str
    patience_s: float

    def __repr__(self) -> str:
        return f"Place({self.text!r})"

    @property
    def notes(self) -> str:
        """The collection of the notes."""
        return self.collection + NOTES_SUFFIX


def parse_place(url: str | StoreUrl) -> Place:
    """The place of `milvus://[user:key@]host[:port]/collection?...` or `milvus:path/to/file.db?collection=...`."""
    address = parse_address(url, _OPTIONS)
    options = address.options
    file = None if address.host else Path(unquote(urlsplit(StoreUrl(url).reveal()).path)).expanduser()
    if file and (file.suffix != ".db" or options.get("collection", "") == ""):
        raise UsageError(
            f"{address.text} names neither a server nor a file of Milvus Lite, expected milvus://host/collection or "
            "milvus:///folder/file.db?collection=name: correct it"
        )
    name = options["collection"] if file else address.name
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"the collection {name!r} cannot be, expected letters, digits and underscores, at most {_LONGEST_NAME}, "
            "the first no digit: choose another name"
        )
    is_tls = address.is_on("tls")
    port = address.port or (443 if is_tls else 19530)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return Place(
        text=f"milvus:{file}?collection={name}" if file else address.text,
        collection=name,
        file=file,
        uri="" if file else f"{'https' if is_tls else 'http'}://{host}:{port}",
        token=f"{address.user}:{address.key}" if address.user else address.key,
        database=options.get("db", ""),
        ca_file=options.get("ca_file", ""),
        index=_choice("index", options.get("index", "flat" if file else "hnsw"), INDEXES),
        m=address.number("m", 32),
        ef_construction=address.number("ef_construction", 200),
        nlist=address.number("nlist", 1024),
        partition_key=options.get("partition_key", ""),
        replicas=max(1, address.number("replicas", 1)),
        shards=max(1, address.number("shards", 1)),
        consistency=CONSISTENCIES[_choice("consistency", options.get("consistency", "session"), list(CONSISTENCIES))],
        patience_s=address.number("patience_s", int(PATIENCE_S)),
    )


def _choice(option: str, value: str, known: tuple[str, ...] | list[str]) -> str:
    if value not in known:
        raise UsageError(f"{option}={value} is unknown, expected {', '.join(known)}: write {option}={known[0]}")
    return value
