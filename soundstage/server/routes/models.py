"""Models, LoRAs, recipes, and the fields of a request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from starlette.responses import JSONResponse, Response

from soundstage.jobs.views import Job, JobRequest
from soundstage.server import description
from soundstage.server.access import Admin, JobsOf, Reader
from soundstage.server.answers import IdempotencyKey, as_json, failures
from soundstage.server.bodies import Deleted, LoraAsked, PullAsked, Records
from soundstage.server.routing import Router

router = Router(tags=["models"])
Name = Annotated[str, Path(max_length=200)]


@router.get("/models", operation_id="list_models", response_model=Records, responses=failures())
def models(owner: Reader, jobs: JobsOf) -> Response:
    """List the models that this server runs, the default first, and those that it could pull."""
    return as_json(Records(data=jobs.models(owner)))


@router.get("/models/{name}", operation_id="get_model", responses=failures(404))
def model(name: Name, owner: Reader, jobs: JobsOf) -> dict[str, Any]:
    """Return what is known of a model."""
    return jobs.model(owner, name)


@router.post(
    "/models/pull",
    operation_id="pull_model",
    status_code=202,
    response_model=Job,
    responses=failures(404, 409, 503),
)
def pull(asked: PullAsked, owner: Admin, jobs: JobsOf, key: IdempotencyKey = None) -> Response:
    """Queue the download of a published model; the job's events tell how far it is."""
    job = jobs.create(owner, JobRequest(kind="pull", model=asked.model), idempotency_key=key)
    return as_json(job, 202, {"Location": job.links.self})


@router.get("/loras", operation_id="list_loras", response_model=Records, responses=failures())
def loras(owner: Reader, jobs: JobsOf) -> Response:
    """List the LoRAs that requests may name as lora:NAME."""
    return as_json(Records(data=jobs.loras(owner)))


@router.post("/loras", operation_id="add_lora", status_code=201, responses=failures(404, 409))
def add_lora(asked: LoraAsked, owner: Admin, jobs: JobsOf) -> dict[str, Any]:
    """Register an uploaded LoRA under a name, for every owner."""
    return jobs.add_lora(owner, asked.name, asked.asset)


@router.delete("/loras/{name}", operation_id="remove_lora", response_model=Deleted, responses=failures(404))
def remove_lora(name: Name, owner: Admin, jobs: JobsOf) -> Response:
    """Remove a LoRA from the list; jobs that wait with it keep its file."""
    jobs.remove_lora(owner, name)
    return as_json(Deleted(id=name, object="lora.deleted"))


@router.get("/recipes", operation_id="list_recipes", response_model=Records, responses=failures())
def recipes(owner: Reader) -> Response:
    """List the recipes: what each is for, and its passes."""
    return as_json(Records(data=description.recipes()))


@router.get("/schema", operation_id="get_schema", responses=failures())
def schema(
    owner: Reader,
    of: Annotated[
        Literal["request", "training"], Query(description="Of a clip's request, or of a training.")
    ] = "request",
) -> JSONResponse:
    """Return the JSON schema of a request, with the meaning, unit, range and words of each field."""
    found = description.request_schema() if of == "request" else description.training_schema()
    return JSONResponse(found)
