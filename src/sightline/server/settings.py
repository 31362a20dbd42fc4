"""The server's settings: which indexes, who may do what, and where the limits are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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
class Settings:
    """Everything that a server needs to know; each worker process gets a copy.

    `indexes` are URLs, the first one is what requests mean that name none. Without keys everybody who reaches the
    server may do everything, so it answers only to requests for `hosts`. `requests_per_s` is for each key or
    address; of more than `max_queries` at once the last ones are refused. `patience_s` is how long the body of a
    request may bring nothing to speak of. `urls` is None where no URL is fetched.
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
    requests_per_s: float = 0.0
    max_upload_bytes: int = 64 * 2**20
    max_megapixels: float = 100.0
    max_queries: int = 34  # a little more than the 32 that one batch takes
    patience_s: float = 20.0
    urls: Limits | None = None

    @property
    def has_keys(self) -> bool:
        """Whether a request must bring a key."""
        return bool(self.read_keys or self.write_keys)


def check_address(host: str, settings: Settings) -> None:
    """`UsageError` if others could reach a server that asks for no key."""
    if host not in LOOPBACK and not settings.has_keys:
        raise UsageError(
            f"--host is {host}, so other machines can reach the server, and there is no key: "
            "write a long random text into a file and give --api-key FILE, or leave --host out to stay on this machine"
        )
