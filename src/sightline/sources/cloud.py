"""A bucket, or any other store of files that fsspec knows, into items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from sightline.errors import ExtraMissing, SourceError, summary
from sightline.sources.files import MAX_FILE_BYTES, is_picture, is_skipped, too_large, unreadable_item
from sightline.types import Item, Value

_CONTENT = ("md5Hash", "ETag", "etag", "content_md5")  # what engines call a mark of the content, the truest first
_TIMES = ("LastModified", "updated", "last_modified", "mtime", "modified", "created")
_SECRETS = frozenset(
    {"key", "secret", "token", "password", "username", "account_key", "sas_token", "connection_string"}
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """All pictures below an address, folder by folder, in order of their names."""

    address: CloudAddress

    @property
    def root(self) -> str:
        """The URI of the address."""
        return self.address.uri(self.address.path)

    def __iter__(self) -> Iterator[Item]:
        """The items; a folder that cannot be listed is one that says so."""
        top = self.address.path
        pending = [(top, [self.root])]
        while pending:
            folder, folders = pending.pop()
            try:
                entries = _listed(self.address, folder)
            except SourceError as error:
                yield unreadable_item(folders[-1], error, name=_name(folder), folders=folders[:-1])
                continue
            below = list[tuple[str, list[str]]]()
            for path, info in entries:
                name = _name(path)
                if is_skipped(name):
                    continue
                if info["type"] == "directory":
                    below.append((path, [*folders, self.address.uri(path)]))
                elif is_picture(name):
                    yield _item(self.address, path, info, folders)
            pending += reversed(below)


@dataclass(frozen=True, slots=True)
class OneFile:
    """One picture there."""

    address: CloudAddress
    info: Mapping[str, Any]

    @property
    def root(self) -> str:
        """Its URI."""
        return self.address.uri(self.address.path)

    def __iter__(self) -> Iterator[Item]:
        """The one item."""
        yield _item(self.address, self.address.path, self.info, [])


@dataclass(frozen=True, slots=True)
class CloudAddress:
    """Where files are: `system` is fsspec's file system, `options` what stood after the ? of the URL."""

    scheme: str
    path: str
    options: str
    system: Any

    def uri(self, path: str) -> str:
        """The URI of a file there, with the options, so that it alone is enough to read it again."""
        return f"{self.scheme}://{quote(path.lstrip('/'))}{f'?{self.options}' if self.options else ''}"


def open_bucket(url: str) -> Bucket | OneFile:
    """What lies at s3://, gs:// or another URL that fsspec knows; options of its file system may follow a ?.

    Raises `SourceError` if it cannot be read, and `ExtraMissing` without fsspec or the package that it needs.
    """
    address = _address(url)
    info = _asked(address, address.path, partial(address.system.info, address.path))
    return Bucket(address) if info["type"] == "directory" else OneFile(address, info)


def _address(url: str) -> CloudAddress:
    parts = urlsplit(url)
    options = {name: {"true": True, "false": False}.get(text, text) for name, text in parse_qsl(parts.query)}
    if secret := next((name for name in options if name in _SECRETS), None):
        raise SourceError(
            f"{parts.scheme}://{parts.netloc} has a {secret} in its URL, expected none: set it as the engine's own "
            "tools read it (environment or configuration file)"
        )
    try:
        import fsspec

        system = fsspec.filesystem(parts.scheme, use_listings_cache=False, **options)
    except ImportError as error:
        raise ExtraMissing(
            f"{url} needs a package that is not installed ({error}): pip install 'sightline[cloud]'"
        ) from error
    except ValueError as error:
        raise SourceError(
            f"{url} is nothing known ({error}), expected a path, or a URL such as s3://, gs:// or https://: check it"
        ) from error
    except Exception as error:  # each engine has its own for missing credentials
        raise SourceError(f"{url} cannot be opened ({summary(error)}): check the credentials") from error
    path = unquote(parts.netloc + parts.path).rstrip("/")
    return CloudAddress(parts.scheme, path, parts.query, system)


def _listed(address: CloudAddress, folder: str) -> list[tuple[str, Mapping[str, Any]]]:
    entries = _asked(address, folder, partial(address.system.ls, folder, detail=True))
    named = {str(entry["name"]).strip("/"): entry for entry in entries}
    named.pop(folder.strip("/"), None)  # some engines list an empty file that stands for the folder
    return sorted(named.items())


def _item(address: CloudAddress, path: str, info: Mapping[str, Any], folders: list[str]) -> Item:
    payload: dict[str, Value] = {"name": _name(path), "folders": [*folders]}
    size = info.get("size")
    if size is not None:
        payload["size_bytes"] = int(size)
    modified = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(modified, datetime):
        payload["modified"] = modified if modified.tzinfo else modified.replace(tzinfo=UTC)
    mark = next((info[name] for name in _CONTENT if info.get(name)), None) or f"{modified}"
    stamp = f"{size}-{mark}".replace('"', "")
    return Item(address.uri(path), stamp, partial(_read, address, path, size), payload, is_slow=True)


def _read(address: CloudAddress, path: str, size: int | None) -> bytes:
    if size is not None and size > MAX_FILE_BYTES:
        raise too_large(address.uri(path), size)
    return bytes(_asked(address, path, partial(address.system.cat_file, path)))


def _asked(address: CloudAddress, path: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except FileNotFoundError as error:
        raise SourceError(f"{address.uri(path)} is not there, expected something: check the address") from error
    except PermissionError as error:
        raise SourceError(f"{address.uri(path)} may not be read ({summary(error)}): check the credentials") from error
    except Exception as error:  # the engines' clients raise what they like
        raise SourceError(
            f"{address.uri(path)} cannot be read ({summary(error)}): check the address, try again"
        ) from error


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
