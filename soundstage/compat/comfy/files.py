"""Find a ComfyUI workflow in a file: JSON, the text of a picture, the metadata of a clip or sound."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError, RequestError

MAX_BYTES = 2**26  # of a workflow
PICTURES = {".png", ".webp", ".jpg", ".jpeg", ".apng", ".gif", ".avif"}
OTHERS = {  # texts of other programs, and what to do with a file that has one
    "soundstage": "was made by Soundstage, not by ComfyUI; `soundstage show` prints its request",
    "parameters": "has settings of another program than ComfyUI; give its prompt to `soundstage generate`",
}
FORMS = ("prompt", "workflow")  # what was run comes first: its values are those of the clip
_EXIF, _COMMENT = 0x8769, 0x9286


def workflow_in(path: Path) -> Any:
    """Return the JSON of the workflow that a file is or holds.

    Raises RequestError for a file that is missing, damaged or holds none.
    """
    if not path.is_file():
        raise RequestError(
            f"{path} is not a file; give a ComfyUI workflow, or a picture or clip that ComfyUI saved"
        )
    with path.open("rb") as stream:
        start = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] in (b"{", b"[") or path.suffix.lower() == ".json":
        return _json_file(path)
    texts = dict(_picture_texts(path) if path.suffix.lower() in PICTURES else _clip_texts(path))
    for form in FORMS:
        if form in texts:
            return _parsed(texts[form], f"the {form} in {path}")
    for name in texts:
        if name in OTHERS:
            raise RequestError(f"{path} {OTHERS[name]}")
    raise RequestError(
        f"{path} holds no ComfyUI workflow; give the workflow's .json, or a file saved with it"
    )


def _json_file(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise RequestError(f"{path} is larger than {MAX_BYTES >> 20} MB; give the workflow of one clip")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path} is not JSON that can be read ({error}); save the workflow again"
        ) from error
    return _parsed(text, str(path))


def _parsed(text: str, where: str) -> Any:
    if len(text) > MAX_BYTES:
        raise RequestError(f"{where} is larger than {MAX_BYTES >> 20} MB; give the workflow of one clip")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{where} is not JSON that can be read ({error}); save the workflow again"
        ) from error


def _picture_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (form, JSON) of a picture: chunks of text, or EXIF fields such as "prompt:{...}"."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()  # text may stand behind the pixels
            held = {
                str(key).lower(): value
                for key, value in {**picture.info, **getattr(picture, "text", {})}.items()
            }
            exif = picture.getexif()
            values = [*exif.values(), exif.get_ifd(_EXIF).get(_COMMENT)]
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RequestError(f"{path} is not a picture that can be read ({error})") from error
    yield from ((form, held[form]) for form in (*FORMS, *OTHERS) if isinstance(held.get(form), str))
    for value in values:
        yield from _tagged(value)


def _tagged(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, bytes):
        value = (
            value[8:].decode("utf-8", "replace")
            if value[:5] in (b"ASCII", b"UNICO")
            else value.decode("utf-8", "replace")
        )
    if not isinstance(value, str):
        return
    text = value.strip("\0 ")
    for form in FORMS:
        if text.lower().startswith(f"{form}:"):
            yield form, text[len(form) + 1 :].strip()
    if text.startswith("{"):
        yield from _nested(text)


def _clip_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (form, JSON) of a clip's or sound's metadata: fields of their own, or JSON in the comment."""
    from soundstage.media.container import read_metadata

    try:
        tags = {name.lower(): value for name, value in read_metadata(path).items()}
    except (MediaError, OSError, ValueError) as error:
        raise RequestError(f"{path} holds no ComfyUI workflow that can be read ({error})") from error
    yield from ((form, tags[form]) for form in FORMS if form in tags)
    for name in ("comment", "description"):
        yield from _nested(tags.get(name, ""))


def _nested(text: str) -> Iterator[tuple[str, str]]:
    """Yield the forms within one JSON object that holds both; each is an object or JSON in a string."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(data, Mapping):
        return
    for form in (*FORMS, "soundstage"):
        if form in data:
            yield form, data[form] if isinstance(data[form], str) else json.dumps(data[form])
    if not set(data) & {*FORMS, "soundstage"} and (
        "nodes" in data or any(_is_node(v) for v in data.values())
    ):
        yield "workflow", text


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_type" in value
