"""Identifiers and secrets: random, long, and made of lower-case letters and digits."""

from __future__ import annotations

import base64
import hashlib
import secrets

SECRET_PREFIX = "ss_"


def new_id(prefix: str) -> str:
    """Return a new identifier such as "job_" and 26 letters and digits."""
    return f"{prefix}_{_letters(secrets.token_bytes(16))}"


def new_secret() -> str:
    """Return a new key's secret."""
    return SECRET_PREFIX + _letters(secrets.token_bytes(32))


def hash_of(text: str | bytes) -> str:
    """Return the SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def _letters(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
