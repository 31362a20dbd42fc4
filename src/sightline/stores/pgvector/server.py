"""The URL of a table turned into where it is and how to work with it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from psycopg import pq

from sightline.errors import UsageError
from sightline.stores.retries import PATIENCE_S
from sightline.stores.url import StoreUrl, parse_address

EXACT_BELOW = 20_000
"""Comparing so many takes 25 ms at 512 dimensions, no more than a graph that finds as much."""

_OURS = ("table", "patience_s", "connections", "m", "ef_construction", "build_memory_mb", "exact_below")
_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")

# A server that vanished without a word is noticed after half a minute, and not after the two hours of TCP.
_DEFAULTS = {
    "application_name": "sightline",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


@dataclass(frozen=True, slots=True)
class Server:
    """Where a table is; `name` is for messages and `connect` for libpq.

    `m` and `ef_construction` shape the graph, which is built in `build_memory_mb`; at most `connections` are opened.
    Up to `exact_below` records are all compared.
    """

    name: str
    table: str
    connect: Mapping[str, str] = field(repr=False)  # holds the password
    patience_s: int
    connections: int
    m: int
    ef_construction: int
    build_memory_mb: int
    exact_below: int


def parse_server(url: str | StoreUrl) -> Server:
    """The parts of a URL `postgresql://user:password@host:port/database?table=photos`; `UsageError` if it is none.

    What libpq knows as an option passes through: sslmode, target_session_attrs, a socket's folder as host.
    """
    _check_secrets(url)
    of_libpq = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    address = parse_address(url, [*_OURS, *sorted(of_libpq.difference(_SECRETS))])
    table = address.options.get("table", "sightline")
    if not _TABLE.fullmatch(table):
        raise UsageError(
            f"the table {table!r} of {address.text} cannot be a name, expected at most 40 letters, digits, _ and - "
            "after a letter: rename it"
        )
    parts = {"host": address.host, "port": str(address.port or ""), "dbname": address.name, "user": address.user}
    given = {name: value for name, value in address.options.items() if name in of_libpq}
    known = {**parts, "password": address.key, **given}
    return Server(
        name=f"{address.text}?table={table}",
        table=table,
        connect=_DEFAULTS | {name: value for name, value in known.items() if value},
        patience_s=address.number("patience_s", int(PATIENCE_S)),
        connections=max(1, address.number("connections", 10)),
        m=address.number("m", 24),
        ef_construction=address.number("ef_construction", 200),
        build_memory_mb=address.number("build_memory_mb", 1024),
        exact_below=address.number("exact_below", EXACT_BELOW),
    )


def _check_secrets(url: str | StoreUrl) -> None:
    given = {name for name, _ in parse_qsl(urlsplit(StoreUrl(url).reveal()).query, keep_blank_values=True)}
    for name in given.intersection(_SECRETS):
        raise UsageError(
            f"a postgresql: URL has {name}= behind its question mark, where messages show it, expected "
            "postgresql://user:password@host/database: move it there, or into a file and write key_file=path"
        )
