"""fal's webhooks: an Ed25519 signature over ids, time and the body's digest, and the key that checks it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soundstage.errors import MissingExtraError
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Delivery
from soundstage.server.webhooks import Letter

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PURPOSE = "fal webhooks"


def signed(jobs: Jobs, delivery: Delivery, at: int, told: Mapping[str, Any]) -> Letter:
    """Return a body with the headers that sign it."""
    body = json.dumps(told, ensure_ascii=False).encode()
    digest = hashlib.sha256(body).hexdigest()
    message = "\n".join([delivery.job_id, delivery.owner, str(at), digest]).encode()
    headers = {
        "x-fal-webhook-request-id": delivery.job_id,
        "x-fal-webhook-user-id": delivery.owner,
        "x-fal-webhook-timestamp": str(at),
        "x-fal-webhook-signature": _key(jobs).sign(message).hex(),
    }
    return Letter(body, headers)


def public_keys(jobs: Jobs) -> dict[str, Any]:
    """Return the public key as a set of JSON web keys."""
    raw = _key(jobs).public_key().public_bytes_raw()
    text = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": text, "use": "sig", "alg": "EdDSA", "kid": "fal"}]}


def _key(jobs: Jobs) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise MissingExtraError("serve", "signing webhooks as fal does") from None
    return Ed25519PrivateKey.from_private_bytes(jobs.secret(PURPOSE))
