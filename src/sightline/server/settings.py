"""The server's settings: which indexes, who may do what, and where the limits are."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sightline.encoders.hub import Hub
from sightline.errors import UsageError
from sightline.stores.url import StoreUrl
from sightline.web.addresses import Address, is_public

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one fetched picture may take, redirects and all, its most bytes, and which addresses are asked."""

    total_s: float = 10.0
    size_bytes: int = 20 * 2**20
    may_reach: Callable[[Address], bool] = is_public


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything that a server needs to know; each worker process gets a copy.

    `indexes` are URLs, the first one is what requests mean that name none. Without keys everybody who reaches the
    server may do everything, so it answers only to requests for `hosts`. `requests_per_s` is for each key or
    address; of more than `max_queries` at once the last ones are refused. `patience_s` is how long the body of a
    request may bring nothing to speak of. `urls` is None where no URL is fetched. `public_url` is where people see the
    server behind a proxy; what a proxy says of its clients counts if its address is in `trusted_proxies`.
    """

    indexes: tuple[StoreUrl, ...]
    model: str | None = None
    hub: Hub = field(default_factory=Hub)
    cache: Path | None = None
    uploads: Path | None = None
    roots: tuple[Path, ...] = ()
    read_keys: tuple[str, ...] = field(default=(), repr=False)
    write_keys: tuple[str, ...] = field(default=(), repr=False)
    read_only: bool = False
    hosts: tuple[str, ...] = LOOPBACK
    origins: tuple[str, ...] = ()
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    requests_per_s: float = 0.0
    max_upload_bytes: int = 64 * 2**20
    max_megapixels: float = 100.0
    max_queries: int = 34  # a little more than the 32 that one batch takes
    patience_s: float = 20.0
    urls: Limits | None = None

    @property
    def prefix(self) -> str:
        """The path below which people see the server: empty, or `/photos`."""
        return urlsplit(self.public_url).path.rstrip("/")

    @property
    def public_origin(self) -> str:
        """The origin that browsers name when they send a request from the server's own page."""
        parts = urlsplit(self.public_url.lower())
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc else "none"

    @property
    def has_keys(self) -> bool:
        """Whether a request must bring a key."""
        return bool(self.read_keys or self.write_keys)


def check_public_url(text: str) -> str:
    """The URL as it was given; `UsageError` if it is none that a server can be seen at."""
    with suppress(ValueError):
        parts = urlsplit(text)
        more = parts.query or parts.fragment or parts.username
        if parts.scheme in ("http", "https") and parts.hostname and not more:
            return text
    raise UsageError(f"--public-url is {text!r}, expected a URL such as https://example.org/photos, without a password")


def check_address(host: str, settings: ServerSettings) -> None:
    """`UsageError` if others could reach a server that asks for no key."""
    if host not in LOOPBACK and not settings.has_keys:
        raise UsageError(
            f"--host is {host}, so other machines can reach the server, and there is no key: "
            "write a long random text into a file and give --api-key FILE, or leave --host out to stay on this machine"
        )
