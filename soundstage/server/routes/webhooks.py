"""Webhooks: what was sent, sending again, and the secret that signs them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from soundstage.jobs.views import Delivery, Page
from soundstage.server import webhooks
from soundstage.server.access import JobsOf, Reader, Submitter
from soundstage.server.answers import After, Id, Limit, as_json, failures
from soundstage.server.bodies import WebhookSecret
from soundstage.server.routing import Router

router = Router(prefix="/webhooks", tags=["webhooks"])


@router.get(
    "/deliveries", operation_id="list_deliveries", response_model=Page[Delivery], responses=failures()
)
def deliveries(
    owner: Reader,
    jobs: JobsOf,
    job: Annotated[str | None, Query(max_length=64, description="Only those of this job.")] = None,
    after: After = None,
    limit: Limit = 20,
) -> Response:
    """List the webhooks of the caller's jobs, the newest first, with what came back."""
    return as_json(jobs.deliveries(owner, job=job, after=after, limit=limit))


@router.post(
    "/deliveries/{id}/redeliver",
    operation_id="redeliver",
    status_code=202,
    response_model=Delivery,
    responses=failures(404),
)
def redeliver(id: Id, owner: Submitter, jobs: JobsOf) -> Response:
    """Send a webhook again, now."""
    return as_json(jobs.redeliver(owner, id), 202)


@router.get("/secret", operation_id="get_webhook_secret", response_model=WebhookSecret, responses=failures())
def secret(owner: Submitter, jobs: JobsOf) -> Response:
    """Return the secret that signs the caller's webhooks."""
    return as_json(WebhookSecret(secret=webhooks.secret_of(jobs, owner.id)))
