"""High dynamic range in a plan: the curve of the picture, and which inputs have the light that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from soundstage.errors import MediaError, SoundstageError
from soundstage.media.exr import check_exr
from soundstage.media.hdr import Hdr
from soundstage.media.light import CURVES, CurveName
from soundstage.planning.resolve import ResolvedRequest
from soundstage.weights.header import read_header

TO_LIGHT = "`soundstage convert FILE light_%05d.exr` makes it light"
CONTEXTS = ("video_context", "audio_context")  # tensors of a file of embeddings


def planned_hdr(resolved: ResolvedRequest) -> Hdr | None:
    """Return how the picture's light is decoded, with its curve; None for standard range.

    What does not fit becomes a problem, what follows from the LoRAs a notice.
    """
    asked = resolved.request.output
    if asked is None:
        _check_standard(resolved)
        return None
    if not resolved.has_video:
        resolved.problem(
            "output", "output.format is given, but only sound is made; leave it out", unused=True
        )
        return None
    _check_inputs(resolved)
    if resolved.request.take is not None and resolved.request.take.color:
        resolved.problem("take", "take.color matches colours in standard range only; set it to 0")
    try:
        if asked.ending == ".exr":
            check_exr(asked)
    except MediaError as error:
        resolved.problem("output", str(error), error)
    return replace(asked, curve=_curve(resolved, asked))


def check_embeddings(resolved: ResolvedRequest, num_parts: int) -> None:
    """Refuse a file of embeddings that does not fit. num_parts: parts of the prompt that it stands for."""
    path = resolved.request.embeddings
    if path is None:
        return
    try:
        held = read_header(path).tensors
    except SoundstageError as error:
        resolved.problem("embeddings", f"embeddings: {error}", error)
        return
    wanted = CONTEXTS[: 1 + resolved.has_audio] if resolved.has_video else CONTEXTS[1:]
    missing = [name for name in wanted if name not in held]
    if missing:
        resolved.problem(
            "embeddings",
            f"embeddings is {path}, which has no tensor {' and no '.join(missing)}; give a file of contexts, "
            "such as the scene embeddings of the HDR LoRA",
        )
    if num_parts > 1:
        resolved.problem(
            "embeddings",
            f"embeddings stand for the whole prompt, and it has {num_parts} parts; give one part",
        )


def _curve(resolved: ResolvedRequest, asked: Hdr) -> CurveName:
    """Return the curve that the model makes its picture in: as asked, else as the LoRAs' files say."""
    stated = {found.hdr for found in resolved.loras if found.hdr is not None}
    unknown = sorted(stated - set(CURVES))
    if unknown and asked.curve is None:
        resolved.problem(
            "loras",
            f"a LoRA was trained for the curve '{unknown[0]}', which is not known; say by output.curve which "
            f"of {', '.join(CURVES)} it is",
        )
    elif len(stated) > 1 and asked.curve is None:
        resolved.problem(
            "loras", f"the LoRAs were trained for different curves ({', '.join(sorted(stated))}); use one"
        )
    elif asked.curve is not None and stated - {asked.curve}:
        other = sorted(stated - {asked.curve})[0]
        resolved.notice(f"a LoRA was trained for the curve '{other}', and {asked.curve} is used, as asked")
    if not stated:
        resolved.notice(
            "no LoRA is given whose file says that it makes light (hdr_transform), so a picture made for "
            f"standard range is decoded as {asked.curve or 'logc3'}, and its brightness means nothing; give "
            "an HDR LoRA by loras"
        )
    own: CurveName = next((name for name in CURVES if name in stated), "logc3")
    return asked.curve or own


def _check_standard(resolved: ResolvedRequest) -> None:
    """Refuse light where the picture is in standard range; note a LoRA that makes light."""
    for where, field in _shown_inputs(resolved):
        if resolved.infos[where].exr:
            resolved.problem(
                field,
                f"{where} is OpenEXR, which has high dynamic range, and the result has not; ask for it by "
                "output.format, or give the clip in standard range",
            )
    _check_references(resolved)
    stated = next((found.hdr for found in resolved.loras if found.hdr is not None), None)
    if stated is not None and resolved.has_video:
        resolved.notice(
            f"a LoRA was trained for high dynamic range ({stated}), and without output.format its picture is "
            "shown in that curve, flat and grey"
        )


def _check_inputs(resolved: ResolvedRequest) -> None:
    """Refuse pictures in standard range where the result has light: it would hold both."""
    for where, field in _shown_inputs(resolved):
        if not resolved.infos[where].light:
            resolved.problem(
                field,
                f"{where} is in standard range, and the result has high dynamic range; give OpenEXR, or a PQ "
                f"or HLG film ({TO_LIGHT})",
            )
    for i, guide in enumerate(resolved.request.guides):
        if guide.crf:
            resolved.problem(
                "guides", f"guides[{i}].crf is {guide.crf}, and light is not compressed; leave it out"
            )
    _check_references(resolved)


def _check_references(resolved: ResolvedRequest) -> None:
    for where, _ in resolved.request.followed:
        if where in resolved.infos and resolved.infos[where].exr:
            resolved.problem(
                where.partition("[")[0],
                f"{where} is OpenEXR, and adapters follow clips in standard range; give one, such as "
                "`soundstage convert` makes of it",
            )


def _shown_inputs(resolved: ResolvedRequest) -> Iterator[tuple[str, str]]:
    """Yield the place and the field of the inputs that become part of the picture."""
    names = [(f"guides[{i}].image", "guides") for i, _ in enumerate(resolved.request.guides)]
    yield from ((w, f) for w, f in (*names, ("source.video", "source")) if w in resolved.infos)
