"""Which IP addresses belong to the open Internet, and connections to those alone."""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Self, TypeAlias

from sightline.errors import AddressRefused, WebError

Address: TypeAlias = IPv4Address | IPv6Address

# IANA's registries of special-purpose addresses (RFC 6890), as of 2026. `ipaddress.is_global` lacks some of them,
# others by the version of Python; those that are reachable from everywhere hold no pictures either.
_SPECIAL_V4 = tuple(
    map(
        IPv4Network,
        """
        0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
        192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24
        203.0.113.0/24 240.0.0.0/4
        224.0.0.0/4 168.63.129.16/32
        """.split(),  # the last two: multicast, and Azure's metadata service, though its number is a public one
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")  # all that IANA gives to hosts: RFC 4291, section 2.4
_SPECIAL_V6 = tuple(map(IPv6Network, "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20".split()))


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open Internet: not to this machine, its network, a provider or a tunnel."""
    if isinstance(address, IPv6Address):
        if (mapped := address.ipv4_mapped) is not None:  # ::ffff:127.0.0.1
            return is_public(mapped)
        is_special = address not in _UNICAST_V6 or any(address in network for network in _SPECIAL_V6)
    else:
        is_special = any(address in network for network in _SPECIAL_V4)
    return not is_special and address.is_global


class AddressGuard:
    """Opens connections to addresses that may be reached, and ends them all when its block ends.

    What was checked is what is connected to. A second look-up of the name could give others (DNS rebinding).
    """

    def __init__(self, may_reach: Callable[[Address], bool] = is_public) -> None:
        self._may_reach = may_reach
        self._sockets = list[socket.socket]()
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def connect(self, host: str, port: int, *, timeout_s: float | None, options: Sequence[Any]) -> socket.socket:
        """A connected socket. Raises `AddressRefused`, a `WebError` for an unknown host, or an `OSError`."""
        try:
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise WebError(host[:200], "has a host that is not known") from error
        if not all(self._may_reach(ip_address(str(place[0]).partition("%")[0])) for *_, place in found):
            raise AddressRefused(host[:200], "leads to a host that is not on the open Internet")
        problems = list[OSError]()
        for family, kind, protocol, _, place in found:
            connection = socket.socket(family, kind, protocol)
            try:
                for option in options:
                    connection.setsockopt(*option)
                connection.settimeout(timeout_s)
                connection.connect(place)
                self._sockets.append(connection.dup())  # TLS takes the first one over
            except OSError as error:
                connection.close()
                problems.append(error)
                continue
            if self._is_over:
                self.abort()
            return connection
        raise problems[0] if problems else OSError("the host has no address")

    def abort(self) -> None:
        """End every connection at once, whoever waits for it, and any that is still to come."""
        self._is_over = True
        while self._sockets:
            with self._sockets.pop() as connection:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # over already
                    continue
