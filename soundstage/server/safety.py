"""Check the page and the name of a call: no page of another site reaches a server on this machine."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from soundstage.jobs.errors import Forbidden
from soundstage.server.settings import ServerSettings, is_loopback

BODY_PAUSE_S = 60.0  # between two parts of a body
BODY_BYTES_S = 256.0  # on the average, after the first such time
# Of every answer that does not say otherwise. What a stranger has uploaded runs no script where it is shown.
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; img-src 'self'; media-src 'self'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
}
# What browsers say of a call that a page of another site makes without asking first, as for a picture.
SITE, MODE = "sec-fetch-site", "sec-fetch-mode"


def check_origin(headers: Headers, settings: ServerSettings) -> None:
    """Raise Forbidden for a call under a name, or from a page, that the settings do not have.

    Links of other sites to this one are followed, and what has a key or ticket shows whose it is.
    """
    host = headers.get("host", "")
    name = _name(host)
    known = {settings.host.lower(), *(one.lower() for one in settings.hosts)}
    asks = settings.is_loopback or settings.hosts
    if asks and "*" not in known and name not in known and not is_loopback(name):
        raise Forbidden(
            f"this server is not called {name[:60]!r}; start it with --allow-host to add the name"
        )
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}", *settings.origins):
        raise Forbidden(
            f"pages of {origin[:60]!r} may not call; start the server with --allow-origin to let them"
        )
    is_from_elsewhere = headers.get(SITE) == "cross-site" and headers.get(MODE) != "navigate"
    if settings.is_loopback and not settings.origins and is_from_elsewhere:
        raise Forbidden("pages of other sites may not call; start the server with --allow-origin to let them")


def headers_of(scope: Scope, settings: ServerSettings) -> dict[str, str]:
    """Return the headers of an answer. What a ticket opens may be shown by a page of any site."""
    is_shared = bool(settings.origins) or b"ticket=" in scope.get("query_string", b"")
    return {**HEADERS, "cross-origin-resource-policy": "cross-origin"} if is_shared else HEADERS


def _name(host: str) -> str:
    """Return a host's name without its port, in small letters."""
    name = host.lower()
    return name.partition("]")[0][1:] if name.startswith("[") else name.partition(":")[0]
