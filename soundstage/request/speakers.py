"""Choose the voice of a clip from a bank of speakers, by the number that its prompt names. Loads no torch.

    with_voice(Request(prompt="[SPEAKER 2] A voice speaks.", speakers=["anna.wav", "ben.wav"]))

The tags are taken out of the prompt, since no model has learned them.
"""

from __future__ import annotations

import re

from soundstage.errors import RequestError
from soundstage.request.inputs import Audio
from soundstage.request.request import Request

# A prompt's part in a window of a take has its brackets escaped.
TAG = re.compile(r"\\?\[SPEAKER (\d{1,4})\\?\]\s*:?\s*", re.IGNORECASE)


def speakers_named(prompt: str) -> tuple[int, ...]:
    """Return the numbers of the speakers that a prompt names, each once, in its order."""
    return tuple(dict.fromkeys(int(match[1]) for match in TAG.finditer(prompt)))


def with_voice(request: Request) -> Request:
    """Return a request with the voice of the first speaker that its prompt names as its sound.

    A prompt that names none has speaker 1. Raises RequestError for a number that the bank does not have.
    """
    if not request.speakers:
        return request
    named = speakers_named(request.prompt)
    for number in named:
        if not 1 <= number <= len(request.speakers):
            raise RequestError(
                f"prompt names [SPEAKER {number}], and speakers has {len(request.speakers)}; give a number "
                f"from 1 to {len(request.speakers)}",
                field="prompt",
            )
    speaker = request.speakers[(named or (1,))[0] - 1]
    audio = Audio(speaker.file, mode="identity", start_s=speaker.start_s, guidance=speaker.guidance)
    prompt = TAG.sub("", request.prompt).strip()
    return request.model_copy(update={"prompt": prompt or request.prompt, "audio": audio, "speakers": ()})
