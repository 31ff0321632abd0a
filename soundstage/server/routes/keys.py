"""Keys, and who calls."""

from __future__ import annotations

from starlette.responses import Response

from soundstage.jobs.views import Key, Page
from soundstage.server.access import Admin, JobsOf, Reader
from soundstage.server.answers import Id, as_json, failures
from soundstage.server.bodies import Deleted, KeyAsked, KeyMade, Me
from soundstage.server.routing import Router

router = Router(tags=["keys"])


@router.get("/me", operation_id="get_me", response_model=Me, responses=failures())
def me(owner: Reader) -> Response:
    """Return whose key the call has, and what it may do."""
    told = Me(id=owner.id, name=owner.name, scopes=sorted(owner.scopes), is_local=owner.is_local)
    return as_json(told)


@router.get("/keys", operation_id="list_keys", response_model=Page[Key], responses=failures())
def list_keys(owner: Admin, jobs: JobsOf) -> Response:
    """List the keys, without their secrets."""
    keys = jobs.keys(owner)
    ids = [key.id for key in keys]
    return as_json(Page[Key](data=keys, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None))


@router.post(
    "/keys", operation_id="create_key", status_code=201, response_model=KeyMade, responses=failures()
)
def create(asked: KeyAsked, owner: Admin, jobs: JobsOf) -> Response:
    """Make a key. Its secret is in this answer alone: the server keeps only a hash."""
    id, secret = jobs.create_key(asked.owner or asked.name, asked.scopes, asked.name)
    made = next(key for key in jobs.keys(owner) if key.id == id)
    return as_json(KeyMade(**made.model_dump(), secret=secret), 201)


@router.delete("/keys/{id}", operation_id="revoke_key", response_model=Deleted, responses=failures(404))
def revoke(id: Id, owner: Admin, jobs: JobsOf) -> Response:
    """Revoke a key: calls with it are refused from now on."""
    jobs.revoke_key(owner, id)
    return as_json(Deleted(id=id, object="key.deleted"))
