"""Network addresses that a server may call: public ones, however they are written."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator

from soundstage.errors import RequestError, shown

IP = ipaddress.IPv4Address | ipaddress.IPv6Address

# Public by the registries' tables, and yet none of them is a host of the open network.
NOT_HOSTS = (
    ipaddress.ip_network("192.0.0.0/24"),  # for protocols; a cloud's own services
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4
    ipaddress.ip_network("168.63.129.16/32"),  # a cloud's own services for its machines
    ipaddress.ip_network("2001::/32"),  # Teredo: another address within
    ipaddress.ip_network("3fff::/20"),  # for documentation
)
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Networks whose addresses hold an IPv4 address, and where its four bytes begin.
WITH_IPV4 = (
    (ipaddress.ip_network("::ffff:0:0/96"), 12),  # mapped
    (ipaddress.ip_network("::ffff:0:0:0/96"), 12),  # translated
    (ipaddress.ip_network("::/96"), 12),  # compatible
    (ipaddress.ip_network("64:ff9b::/96"), 12),  # NAT64
    (ipaddress.ip_network("2002::/16"), 2),  # 6to4
)


def is_public(text: str) -> bool:
    """Return whether an IP address is one of the open network, and so is the one that it holds within."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(_is_public(one) for one in _unwrapped(address))


def _unwrapped(address: IP) -> Iterator[IP]:
    """Yield the IPv4 address that an IPv6 address leads to; else the address itself."""
    for network, at in WITH_IPV4:
        if address.version == network.version and address in network:
            yield ipaddress.IPv4Address(address.packed[at : at + 4])
            return
    yield address


def _is_public(address: IP) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    if address.version == 6 and address not in GLOBAL_UNICAST:
        return False
    return not any(address in network for network in NOT_HOSTS if network.version == address.version)


def resolved(host: str, port: int) -> list[str]:
    """Return the addresses of a name. Raises RequestError for one that is not known."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        raise RequestError(f"the name {shown(host)} is not known; check the address") from None
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def public_addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a name. Raises RequestError unless all of them are public."""
    found = resolved(host, port)
    if not all(is_public(address) for address in found):
        raise RequestError(
            f"the name {shown(host)} leads into a private network, which is not called; upload the file"
        )
    return found
