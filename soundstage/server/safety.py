"""Check the page and the name of a call: no page of another site reaches a server on this machine."""

from __future__ import annotations

from starlette.datastructures import Headers

from soundstage.jobs.errors import Forbidden
from soundstage.server.settings import ServerSettings, is_loopback


def check_origin(headers: Headers, settings: ServerSettings) -> None:
    """Raise Forbidden for a call under a name, or from a page, that the settings do not have."""
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


def _name(host: str) -> str:
    """Return a host's name without its port, in small letters."""
    name = host.lower()
    return name.partition("]")[0][1:] if name.startswith("[") else name.partition(":")[0]
