"""Keys of callers, their scopes, and the types by which endpoints ask for them.

def cancel(id: str, owner: Submitter, jobs: JobsOf) -> Job: ...
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers

from soundstage.jobs.errors import Forbidden
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import LOCAL, Owner
from soundstage.jobs.views import Scope as KeyScope
from soundstage.server.failures import Unauthorized
from soundstage.server.settings import ServerSettings

SCHEMES = ("bearer", "key")  # before a key in the header Authorization
WORKER = Owner(id="local", name="worker of this server", scopes=frozenset({"worker"}), is_local=True)
HOW = "send it as the header Authorization: Bearer KEY"


def key_of(headers: Headers) -> str | None:
    """Return the key that a call carries, in any of the headers that clients use."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() in SCHEMES and secret.strip():
        return secret.strip()
    return headers.get("x-api-key") or None


async def caller(headers: Headers, jobs: Jobs, settings: ServerSettings) -> Owner | None:
    """Return who calls; None for a call without a key where one is needed.

    Raises Unauthorized for a key that is not known.
    """
    secret = key_of(headers)
    if secret is None:
        return None if await _needs_key(jobs, settings) else LOCAL
    if settings.knows_worker(secret):
        return WORKER
    if settings.knows(secret):
        return LOCAL
    found = await run_in_threadpool(jobs.owner_of, secret)
    if found is None and not await _needs_key(jobs, settings):
        return LOCAL  # clients of other services send some key, and none is needed here
    if found is None:
        raise Unauthorized(f"the key is not known here; {HOW}, and make one with `soundstage keys new`")
    return found


async def _needs_key(jobs: Jobs, settings: ServerSettings) -> bool:
    if settings.keys or not settings.is_loopback:
        return True
    return await run_in_threadpool(jobs.has_keys)


def allow(owner: Owner | None, scope: KeyScope) -> Owner:
    """Return the owner if they have a right. Raises Unauthorized or Forbidden."""
    if owner is None:
        raise Unauthorized(f"a key is needed; {HOW}")
    if not owner.may(scope):
        held = ", ".join(sorted(owner.scopes)) or "none"
        raise Forbidden(f"this needs the scope {scope}, and the key has {held}; use another key")
    return owner


def _with(scope: KeyScope) -> Callable[[Request], Coroutine[Any, Any, Owner]]:
    async def owner(request: Request) -> Owner:
        return allow(request.state.owner, scope)

    owner.__name__ = f"owner_with_{scope}"
    return owner


async def jobs_of(request: Request) -> Jobs:
    """Return the jobs of the server that answers."""
    jobs: Jobs = request.app.state.jobs
    return jobs


async def settings_of(request: Request) -> ServerSettings:
    """Return the settings of the server that answers."""
    settings: ServerSettings = request.app.state.settings
    return settings


Reader = Annotated[Owner, Depends(_with("read"))]
Submitter = Annotated[Owner, Depends(_with("submit"))]
Admin = Annotated[Owner, Depends(_with("admin"))]
Worker = Annotated[Owner, Depends(_with("worker"))]
JobsOf = Annotated[Jobs, Depends(jobs_of)]
SettingsOf = Annotated[ServerSettings, Depends(settings_of)]

# The headers of a key, for the description of the API; they are read by `key_of`.
DESCRIBED = (
    Depends(HTTPBearer(auto_error=False, description="A key of `soundstage keys new`.")),
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, without a word.")),
)
