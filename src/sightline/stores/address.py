"""The URL of a server's store turned into host, name, key and options, and back into text that hides the key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from sightline.errors import UsageError
from sightline.stores.base import HIDDEN, redacted

_KEYED = ("qdrant", "milvus", "pinecone", "vespa")  # PostgreSQL has variables and a password file of its own


@dataclass(frozen=True, slots=True)
class Address:
    """A store on a server: `scheme://user:key@host:port/name?option=value`.

    `port` is None where the URL has none. `options` holds what stands behind the question mark, as text.
    """

    scheme: str
    host: str
    port: int | None
    name: str
    user: str
    key: str
    options: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Address({self.text!r})"

    @property
    def text(self) -> str:
        """The address for messages and notes: without the key."""
        who = f"{self.user}:{HIDDEN}@" if self.key else f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.scheme}://{who}{host}{port}/{self.name}"

    def number(self, option: str, default: int) -> int:
        """An option that is a whole number of at least 0; `UsageError` if it is not."""
        text = self.options.get(option, str(default))
        if not text.isdecimal():
            raise UsageError(f"{option}={text} of {self.text} is no number, expected one such as {option}={default}")
        return int(text)

    def is_on(self, option: str) -> bool:
        """An option that is true or false, false when it is missing; `UsageError` for anything else."""
        text = self.options.get(option, "false").lower()
        if text not in ("true", "false", "1", "0"):
            raise UsageError(f"{option}={text} of {self.text} is neither true nor false: write {option}=true")
        return text in ("true", "1")


def parse_address(url: str, options: Sequence[str]) -> Address:
    """The parts of a store's URL; `options` are those that the store knows, besides `key_file`.

    The key is the URL's password, or the first line of the file that `key_file` names. Raises `UsageError`.
    """
    example = f"{url.partition(':')[0]}://host/name"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{redacted(url)} is no URL ({error}), expected one like {example}: correct it") from error
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(given.keys() - {*options, "key_file"})
    if unknown:
        known = ", ".join(sorted({*options, "key_file"}))
        raise UsageError(f"{redacted(url)} has the unknown option {unknown[0]!r}, expected {known}: correct the name")
    name = unquote(parts.path.strip("/"))
    if not name:
        raise UsageError(f"{redacted(url)} names no index, expected one like {example}: add its name")
    key = unquote(parts.password or "") or _key_of(given.pop("key_file", ""))
    given.pop("key_file", None)
    return Address(parts.scheme.lower(), parts.hostname or "", port, name, unquote(parts.username or ""), key, given)


def with_key(url: str, key: str | None) -> str:
    """The URL with the key as its password, if it is a server's and has none yet."""
    before, slashes, rest = url.partition("://")
    place, _, _ = rest.partition("/")
    if not key or not slashes or before.lower() not in _KEYED or "@" in place or "key_file=" in url:
        return url
    return f"{before}://:{quote(key, safe='')}@{rest}"


def _key_of(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).expanduser().read_text("utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the key file {path} cannot be read ({error}), expected a file with one line") from error
