"""The URL of a store, which no message can print the password of, and the parts of a server's URL."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from sightline.errors import UsageError

HIDDEN = "***"
"""What stands in messages for a password or key."""

_KEYED = ("qdrant", "milvus", "pinecone", "vespa")  # PostgreSQL has variables and a password file of its own
_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]+://?[^\s:@/]*):\S*@", re.IGNORECASE)
_KEY_ALONE = ("qdrant", "pinecone", "vespa")  # these have no users: what stands before the @ is meant as the key
_KEY = re.compile(rf"((?:{'|'.join(_KEY_ALONE)})://?)[^\s:@]+@", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):", re.IGNORECASE)  # two characters at least: C:\photos is a path
_SECRET_OPTION = re.compile(
    r"([?&][^=&#]*(?:password|passwd|secret|token|api_?key|access_?key)[^=&#]*=)[^&#\s]*", re.IGNORECASE
)


def redact(text: str) -> str:
    """A message of others without the passwords of the URLs in it."""
    for secret in (_PASSWORD, _KEY):
        text = secret.sub(rf"\1:{HIDDEN}@", text)
    return _SECRET_OPTION.sub(rf"\1{HIDDEN}", text)


class StoreUrl:
    """The path or URL of a store. As text it has no password: only `reveal()` gives it, to who connects.

    `scheme` is `qdrant`, `postgresql` and so on; `file` for a path. `path` is that of a path or a file: URL.
    """

    __slots__ = ("_text", "path", "scheme")

    def __init__(self, url: "str | Path | StoreUrl") -> None:
        self._text: str = url._text if isinstance(url, StoreUrl) else str(url)
        match = _SCHEME.match(self._text)
        self.scheme = match[1].lower() if match else "file"
        self.path = Path(self._text)
        if match and self.scheme == "file":
            from urllib.request import url2pathname  # 10 ms, for all of HTTP

            self.path = Path(url2pathname(urlsplit(self._text).path))

    def __str__(self) -> str:
        text = _SECRET_OPTION.sub(rf"\1{HIDDEN}", self._text)
        before, at, after = text.rpartition("@")
        start, slashes, who = before.partition("://")
        user, colon, _ = who.partition(":")
        if not at or not slashes or not (colon or start.lower() in _KEY_ALONE):
            return text
        return f"{start}://{user if colon else ''}:{HIDDEN}@{after}"

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreUrl) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self._text,)

    def reveal(self) -> str:
        """The URL as it was given, with its password; never for a message."""
        return self._text

    @property
    def is_remote(self) -> bool:
        """Whether a server keeps the store."""
        return self.scheme not in ("file", "memory") and bool(urlsplit(self._text).netloc)

    @property
    def name(self) -> str:
        """The last part, without `.index` and options: what people call the index."""
        text = self._text if self.scheme == "file" else str(self).partition("?")[0].partition("#")[0]
        return Path(text.rstrip("/")).name.removesuffix(".index") or "index"

    def with_key(self, key: str | None) -> "StoreUrl":
        """The URL with the key as its password, if it is a server's that takes one and has none yet."""
        before, slashes, rest = self._text.partition("://")
        place, _, _ = rest.partition("/")
        if not key or not slashes or before.lower() not in _KEYED or "@" in place or "key_file=" in self._text:
            return self
        return StoreUrl(f"{before}://:{quote(key, safe='')}@{rest}")


Option: TypeAlias = str | int | bool | tuple[str, ...] | type[int] | type[bool]
"""What an option of a URL is where it is missing, whose kind it has: text, a whole number, true or false, or one of
several words, of which the first is meant. `int` and `bool` themselves stand for None of that kind."""


@dataclass(frozen=True, slots=True)
class Address:
    """A store on a server: `scheme://user:key@host:port/name?option=value`.

    `port` is None where the URL has none. `options` holds a value for each option that the store knows.
    """

    scheme: str
    host: str
    port: int | None
    name: str
    user: str
    key: str
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Address({self.text!r})"

    @property
    def text(self) -> str:
        """The address for messages and notes: without the key."""
        who = f"{self.user}:{HIDDEN}@" if self.key else f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.scheme}://{who}{self.url_host}{port}/{self.name}"

    @property
    def url_host(self) -> str:
        """The host as URLs write it."""
        return f"[{self.host}]" if ":" in self.host else self.host


def parse_address(url: str | StoreUrl, options: Mapping[str, Option]) -> Address:
    """The parts of a store's URL; `options` are those that the store knows, besides `key_file`, with their defaults.

    The key is the URL's password, or the first line of the file that `key_file` names. Raises `UsageError`.
    """
    url = StoreUrl(url)
    example = f"{url.scheme}://host/name"
    try:
        parts = urlsplit(url.reveal())
        port = parts.port
    except ValueError:  # its text would repeat what stands where the port should, perhaps half a password
        raise UsageError(
            f"{url} is not a valid URL, expected one like {example}: in a password write %2F, %3F, %23 and %40 "
            "for / ? # and @"
        ) from None
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(given.keys() - {*options, "key_file"})
    if unknown:
        known = ", ".join(sorted({*options, "key_file"}))
        raise UsageError(f"{url} has the unknown option {unknown[0]!r}, expected {known}: correct the name")
    name = unquote(parts.path.strip("/"))
    if not name:
        raise UsageError(f"{url} names no index, expected one like {example}: add its name")
    user, key = unquote(parts.username or ""), unquote(parts.password or "")
    if url.scheme in _KEY_ALONE and not key:
        user, key = "", user
    key_file = given.get("key_file", "")
    if key_file and not key:
        try:
            key = Path(key_file).expanduser().read_text("utf-8").split("\n", 1)[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the key file {key_file} cannot be read ({error}), expected a file with one line"
            ) from error
    address = Address(url.scheme, parts.hostname or "", port, name, user, key, {})
    values = {option: _value(option, given.get(option), default, address) for option, default in options.items()}
    return replace(address, options=values)


def _value(option: str, text: str | None, default: Option, address: Address) -> Any:
    if text is None:
        return None if isinstance(default, type) else default[0] if isinstance(default, tuple) else default
    kind, lower = default if isinstance(default, type) else type(default), text.lower()
    if kind is str:
        return text
    if kind is bool and lower in ("true", "false", "1", "0"):
        return lower in ("true", "1")
    if kind is int and text.isdecimal():
        return int(text)
    if isinstance(default, tuple):
        if lower in default:
            return lower
        expected = f"is unknown, expected one of {', '.join(filter(None, default))}"
    elif kind is bool:
        expected = f"is neither true nor false: write {option}=true"
    else:
        expected = f"is not a number, expected one such as {option}={2 if isinstance(default, type) else default}"
    raise UsageError(f"{option}={text} of {address.text} {expected}")
