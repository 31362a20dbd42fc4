"""An IP address turned into whether a server that fetches for strangers may ask it."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

_UNICAST = IPv6Network("2000::/3")  # all that IANA gives to hosts: RFC 4291, section 2.4
_TUNNELS = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))  # Teredo and 6to4: an IPv4 address stands in them
_INNER = (
    IPv4Network("192.0.0.0/24"),  # Python before 3.12.4 takes most of it for public; Oracle's metadata service is there
    IPv4Network("168.63.129.16/32"),  # Azure's, though the number is a public one
)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open Internet: not to this machine, its network, a provider or a tunnel.

    `is_global` follows IANA's registries of special addresses: loopback, private, link-local (with the metadata
    services of clouds), carrier-grade NAT (100.64/10), 0.0.0.0/8, documentation and benchmark networks are none.
    """
    if isinstance(address, IPv6Address):
        if (mapped := address.ipv4_mapped) is not None:  # ::ffff:127.0.0.1
            return is_public(mapped)
        if address not in _UNICAST or any(address in network for network in _TUNNELS):
            return False
    elif any(address in network for network in _INNER):
        return False
    return address.is_global and not address.is_multicast


def parsed(text: str) -> Address:
    """The address that `getaddrinfo` wrote; what follows a % names a network card."""
    return ip_address(text.partition("%")[0])
