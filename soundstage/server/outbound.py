"""Calls that the server makes to addresses of its users: https, to public addresses alone, no redirects."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping

import httpx

from soundstage.errors import RequestError


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
    """Send a body to an https address and return the status of the answer, which is not read.

    The name is resolved once, and the connection goes to the address that was checked. Raises RequestError
    for any other address, and where nobody answers.
    """
    asked = _checked(url)
    address = _public_address(asked.host, asked.port or 443)
    pinned = asked.copy_with(host=address)
    try:
        with (
            httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "POST",
                pinned,
                content=body,
                headers={**headers, "host": asked.netloc.decode()},
                extensions={"sni_hostname": asked.host},
            ) as answer,
        ):
            return answer.status_code
    except httpx.HTTPError as error:
        raise RequestError(f"the receiver did not answer ({type(error).__name__})") from None


def _checked(url: str) -> httpx.URL:
    try:
        asked = httpx.URL(url)
    except httpx.InvalidURL:
        raise RequestError("the address is none; give one that begins with https://") from None
    if asked.scheme != "https" or not asked.host or asked.userinfo:
        raise RequestError("the address should begin with https:// and hold no name or password")
    return asked


def _public_address(host: str, port: int) -> str:
    """Return an address of a name. Raises RequestError unless all of them are public."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise RequestError(f"the name {host[:80]!r} is not known") from None
    for address in found:
        ip = ipaddress.ip_address(address.partition("%")[0])
        inner = getattr(ip, "ipv4_mapped", None) or ip
        if not inner.is_global or inner.is_multicast:
            raise RequestError(f"the name {host[:80]!r} leads into a private network")
    return min(found)
