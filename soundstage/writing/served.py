"""A language model behind an OpenAI-compatible server: `POST URL/chat/completions`."""

from __future__ import annotations

import base64
import io
import os
import time
from dataclasses import dataclass
from typing import Any

from soundstage.errors import MissingExtraError, ServerError, shown
from soundstage.media.arrays import Pixels
from soundstage.writing.asked import Question

AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))  # statuses of calls to make again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


@dataclass(frozen=True)
class ServedWriter:
    """A model of a server.

    url: its address, such as http://localhost:8000/v1. model: its name there. key_variable: environment
    variable that holds the server's key. retries: how often a call that failed in passing is made again.
    """

    url: str
    model: str = "default"
    key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    retries: int = 4
    sees: bool = True

    def write(self, question: Question) -> str:
        """Return the answer; calls that fail in passing are made again. Raises ServerError in the end."""
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("client", "asking a language model of a server") from error
        url = f"{self.url.rstrip('/')}/chat/completions"
        failure, status = "", None
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1)))
            try:
                answer = httpx.post(
                    url, json=self._body(question), headers=self._headers(), timeout=self.timeout_s
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = f"it cannot be reached ({error or type(error).__name__})"
                continue
            if answer.status_code == 200:
                return _text(answer, url)
            status = answer.status_code
            failure = f"it answers {status}: {' '.join(answer.text.split())[:200]}"
            if status not in AGAIN:
                break
        raise ServerError(f"{url} wrote nothing: {failure}", status=status)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_variable)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _body(self, question: Question) -> dict[str, Any]:
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(one)}} for one in question.pictures]
        content = [{"type": "text", "text": question.text}, *pictures]
        system = [{"role": "system", "content": question.system}] if question.system else []
        sampling = (
            {"temperature": question.temperature, "seed": question.seed} if question.temperature else {}
        )
        return {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": content}],
            "max_tokens": question.max_tokens,
            **sampling,
        }


def _data_url(picture: Pixels) -> str:
    import numpy as np
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stored, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _text(answer: Any, url: str) -> str:
    """Return the text of an answer. Raises ServerError for one that holds none."""
    try:
        text = answer.json()["choices"][0]["message"]["content"]
        text = text if isinstance(text, str) else "".join(part.get("text", "") for part in text)
    except (ValueError, LookupError, TypeError, AttributeError):
        text = ""
    if not text.strip():
        raise ServerError(f"{url} answers {shown(answer.text)}, which holds no text; check the model")
    return str(text)
