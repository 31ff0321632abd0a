"""The errors of a server as those of an engine."""

from __future__ import annotations

from concurrent.futures import CancelledError

from soundstage.client.effects import ServerAnswer
from soundstage.errors import (
    ConfigError,
    MediaError,
    RequestError,
    ServerError,
    WeightsError,
)
from soundstage.jobs.errors import CODES
from soundstage.jobs.views import Job

# Codes of a server and the errors that they stand for; others are ServerErrors.
CLASSES = {code: kind for kind, code in CODES if kind in (ConfigError, MediaError, WeightsError)}
AWAY = (502, 503, 504)  # of a server that starts, stops, or is behind a proxy that does not reach it


def check_answer(answer: ServerAnswer, url: str) -> None:
    """Raise the error that an answer tells of."""
    if answer.status < 300:
        return
    data = answer.json()
    told = data.get("error") if isinstance(data, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("message"), str):
        raise ServerError(
            f"{url} answered {answer.status}, and not as a Soundstage server does; give a server's address",
            status=answer.status,
        )
    message, code, field = told["message"], str(told.get("code")), told.get("field")
    if answer.status == 422 and (code not in CLASSES or field is not None):
        raise RequestError(message, field=field)
    if answer.status == 422:
        raise CLASSES[code](message)
    if answer.status == 401:
        message += f" ({url}: give it as key, --key or $SOUNDSTAGE_KEY)"
    pause = answer.headers.get("retry-after", "")
    raise ServerError(
        message, status=answer.status, code=code, retry_after_s=float(pause) if pause.isdigit() else None
    )


def check_job(job: Job) -> None:
    """Raise the reason why a job that has ended made nothing."""
    if job.state == "succeeded":
        return
    if job.state == "cancelled":
        raise CancelledError(f"{job.id} was cancelled")
    if job.error is None:
        raise ServerError(f"{job.id} is {job.state}, and the server does not say why", code=job.state)
    code, message = job.error.code, job.error.message
    if code == "invalid_request" or job.error.field is not None:
        raise RequestError(message, field=job.error.field)
    if code in CLASSES:
        raise CLASSES[code](message)
    raise ServerError(f"{job.id} failed: {message}", code=code)


def unreachable(url: str, reason: str, waited_s: float) -> ServerError:
    """Return the error for a server that gives no answer."""
    waited = f" for {waited_s:.0f} s" if waited_s >= 1 else ""
    return ServerError(
        f"{url} cannot be reached{waited} ({reason}); is a server running there? soundstage serve starts one"
    )
