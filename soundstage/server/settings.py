"""ServerSettings of a server."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

from soundstage.intake.limits import STANDARD, IntakeLimits
from soundstage.intake.rules import PUBLIC, FetchRule

MIB = 1024 * 1024


def digest(secret: str) -> bytes:
    """Return what is kept of a key: its SHA-256."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class ServerSettings:
    """ServerSettings of a server, with the defaults that `soundstage serve` has."""

    host: str = "127.0.0.1"
    """The address it listens on."""
    port: int = 8765
    """The port it listens on."""
    hosts: tuple[str, ...] = ()
    """Names by which clients may call it, besides its address and the loopback ones; "*" is any."""
    origins: tuple[str, ...] = ()
    """Pages of these origins may call it from a browser, besides its own."""
    keys: frozenset[bytes] = field(default=frozenset(), repr=False)
    """Digests of keys that were given when it was started; they have every right."""
    worker_keys: frozenset[bytes] = field(default=frozenset(), repr=False)
    """Digests of the keys of the workers that it starts itself."""
    max_upload_bytes: int = 2048 * MIB
    """Largest file that is uploaded."""
    max_body_bytes: int = 64 * MIB
    """Largest body of any other call; files in `data:` URIs are in it."""
    max_anonymous_bytes: int = MIB // 16
    """Largest body of a caller without a key, where one is needed."""
    calls_per_minute: int | None = None
    """Calls that one key may make within a minute; 0 is no limit. None: rates.WITH_KEYS where keys are
    needed, else no limit."""
    fetch: FetchRule = PUBLIC
    """Addresses that files of requests are fetched from."""
    webhooks: FetchRule = PUBLIC
    """Addresses that webhooks are sent to."""
    intake: IntakeLimits = STANDARD
    """Limits of the files that come in."""
    ticket_s: float = 900.0
    """How long an address of a clip that needs no key works."""
    ping_s: float = 15.0
    """Seconds between two comments that keep a stream of events open."""

    @property
    def is_loopback(self) -> bool:
        """Return whether only programs on this machine reach it."""
        return is_loopback(self.host)

    def knows(self, secret: str) -> bool:
        """Return whether a key was given at the start."""
        return _is_among(secret, self.keys)

    def knows_worker(self, secret: str) -> bool:
        """Return whether a key is that of a worker that the server started."""
        return _is_among(secret, self.worker_keys)


def is_loopback(host: str) -> bool:
    """Return whether an address is of this machine alone."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_among(secret: str, digests: Iterable[bytes]) -> bool:
    """Compare with every digest in constant time."""
    own = digest(secret)
    return any([hmac.compare_digest(own, one) for one in digests])
