"""fal's fields for LTX-2.3, of the open-weights and the hosted family, as fields of a request.

A table for each kind of clip would say most things twice: both families and all kinds share their fields, and
what a kind has of its own is in its function below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from soundstage.errors import RequestError
from soundstage.jobs.errors import NotFound
from soundstage.jobs.service import Jobs
from soundstage.server.dialects import calls, fal_training
from soundstage.server.dialects.draft import Draft, bad, record_of
from soundstage.server.dialects.shapes import of_ratio, set_shape

ENGINE_ONLY = "this server has no such setting"
SCALES = {"cfg": "cfg", "modality": "modality", "rescaling": "rescale", "stg": "stg"}
SCHEDULES = {"ltx2": "ltx2", "linear_quadratic": "linear-quadratic", "beta": "beta"}
CACHES = {"none": None, "regular": None, "high": "first-block:0.05", "full": "first-block:0.1"}
CAMERAS = ("dolly_in", "dolly_out", "dolly_left", "dolly_right", "jib_up", "jib_down", "static")
OUTPUTS = {"X264 (.mp4)": "mp4", "VP9 (.webm)": "webm", "GIF (.gif)": "gif"}
PRORES = "PRORES4444 (.mov)"
# Shapes at the model's own area.
SHAPES = {
    "square_hd": "square", "square": "square", "portrait_16_9": "portrait", "landscape_16_9": "landscape",
    "portrait_4_3": "3:4", "landscape_4_3": "4:3",
}  # fmt: skip
IC_LORAS = {"union": "ic-union", "detailer": "ic-detailer"}
RETAKES = {
    "replace_audio": ["audio"], "replace_video": ["video"], "replace_audio_and_video": ["audio", "video"],
}  # fmt: skip
OPEN_FRAMES, OPEN_FPS, HOSTED_EXTEND_S, RETAKE_S = 121, 24.0, 5.0, 5.0
OPEN_STRENGTH = 0.01  # of a clip that a clip is made from
UPSCALE_PROMPT = "A clear, detailed picture."
FITTING_PROMPT = "A scene that fits what is given."


@dataclass(frozen=True)
class Route:
    """The endpoint that an address names. mode: the kind of clip."""

    mode: str
    distilled: bool
    hosted: bool
    quality: bool


@dataclass(frozen=True)
class Given:
    """The inputs of the reader of a mode."""

    draft: Draft
    route: Route
    jobs: Jobs
    request: Request | None
    own_size: tuple[int, int]

    def media(self, name: str, to: str) -> str | None:
        return calls.media_in(self.jobs, self.draft, name, to, self.request)

    def needed(self, name: str, to: str) -> str:
        found = self.media(name, to)
        if found is None:
            raise RequestError(f"{name} is missing; give the file's address", field=name)
        return found


def route_of(app: str) -> Route:
    """Return what an address such as "fal-ai/ltx-2.3-22b/distilled/text-to-video/lora" asks for.

    Raises NotFound for one that is not LTX-2.3's, or is not done here.
    """
    parts = app.strip("/").split("/")
    name, words = (parts[1] if len(parts) > 1 else ""), parts[2:]
    mode = next((MODE_WORDS[word] for word in words if word in MODE_WORDS), None)
    known = {"distilled", "lora", "fast", "quality", "pro", *MODE_WORDS}
    if not re.fullmatch(r"ltx-?(video-)?2\.3(-22b|-quality)?", name) or mode is None or set(words) - known:
        raise NotFound(
            f"there is no endpoint {app[:100]!r} here; give one of LTX-2.3, such as "
            "fal-ai/ltx-2.3-22b/text-to-video: it makes " + ", ".join(sorted(READERS))
        )
    quality = "quality" in words or name.endswith("-quality")
    hosted = not name.endswith("-22b")
    return Route(mode, "distilled" in words or "fast" in words, hosted, quality)


def read(
    app: str, given: Mapping[str, Any], jobs: Jobs, request: Request | None, own_size: tuple[int, int]
) -> tuple[Draft, bool]:
    """Return the draft of a call, and whether its answer should hold the clip itself (sync_mode)."""
    if fal_training.is_trainer(app):
        return fal_training.read(app, given, jobs, request), False
    route = route_of(app)
    draft = Draft(given)
    ask = Given(draft, route, jobs, request, own_size)
    if route.mode == "upscale":
        draft.prompt_or(UPSCALE_PROMPT)
    elif route.mode in ("retake", "extend"):
        draft.prompt_or(FITTING_PROMPT)
    else:
        draft.prompt()
    _shared(ask)
    _guidance(draft)
    _adapters(ask)
    sync = _output(draft)
    READERS[route.mode](ask)
    return draft, bool(sync)


# --- what all kinds share -------------------------------------------------------------------------------


def _shared(ask: Given) -> None:
    draft = ask.draft
    draft.text("negative_prompt", "negative_prompt")
    draft.whole("seed", "seed")
    draft.sound("generate_audio")
    if ask.route.mode not in ("extend", "retake"):
        draft.whole("num_frames", "num_frames", least=1)
        _duration(draft)
    draft.number("fps", "fps", least=1, most=240)
    _size(ask)
    multiscale = draft.flag("use_multiscale")
    if ask.route.distilled:
        draft.request["recipe"] = "fast"
        if multiscale is False:
            raise RequestError(
                "use_multiscale is false; distilled clips are made in two passes here, so leave it out",
                field="use_multiscale",
            )
    elif multiscale:
        draft.request["recipe"] = "pro"
    draft.whole("num_inference_steps", "steps", least=1, most=1000)
    if draft.request.get("steps") is not None and ask.route.distilled:
        raise RequestError(
            "num_inference_steps is given, and distilled clips have a fixed number; leave it out",
            field="num_inference_steps",
        )
    schedule = draft.word("scheduler", tuple(SCHEDULES), "schedule")
    if schedule is not None:
        draft.request["schedule"] = SCHEDULES[schedule]
    cache = CACHES[draft.word("acceleration", tuple(CACHES), "cache") or "none"]
    if cache is not None:
        draft.request["cache"] = cache
    draft.idle("enable_prompt_expansion", "the prompt is used as it is", quiet=(False,))
    draft.idle("enable_safety_checker", "this server has none", quiet=(False,))


def _duration(draft: Draft) -> None:
    seconds = draft.take("duration", "duration_s")
    if seconds is None or seconds == "auto":
        return
    fields = Draft({"duration": str(seconds).removesuffix("s")})
    draft.request["duration_s"] = fields.number("duration", least=0.01, most=86_400)
    if draft.request.pop("num_frames", None) is not None:
        draft.warn("num_frames has no effect: duration is given too, and counts")


def _size(ask: Given) -> None:
    draft = ask.draft
    value = draft.take("video_size", "size")
    aspect, resolution = draft.text("aspect_ratio", most=10), draft.text("resolution", most=10)
    if value is None:
        set_shape(draft, resolution, None if aspect == "auto" else aspect, ask.own_size)
    elif isinstance(value, str) and value in SHAPES:
        word = SHAPES[value]
        draft.request["size"] = of_ratio(word, ask.own_size) if ":" in word else word
    elif isinstance(value, str) and value != "auto":
        raise bad("video_size", value, f"{', '.join(SHAPES)}, auto, or width and height")
    elif value != "auto":
        sides = Draft(record_of("video_size", value))
        width, height = sides.whole("width", least=1), sides.whole("height", least=1)
        if width is None or height is None:
            raise bad("video_size", value, "both width and height")
        draft.request["size"] = [width, height]


def _guidance(draft: Draft) -> None:
    for stream in ("video", "audio"):
        found = {}
        for theirs, ours in SCALES.items():
            value = draft.number(f"{stream}_{theirs}_scale", about=f"{stream}_scales", most=100)
            if value is not None:
                found[ours] = value
        if found:
            draft.request[f"{stream}_scales"] = found
    draft.number("guidance_scale", "guidance", most=100)
    for name, default in (("distill_lora_first_pass_scale", 0.2), ("distill_lora_second_pass_scale", 0.5)):
        value = draft.number(name, most=10)
        if value is not None and value != default:
            raise RequestError(
                f"{name} is {value:g}; recipes here have fixed strengths, so leave it out", field=name
            )
        if value is not None:
            draft.warn(f"{name} has no effect: recipes here have strengths of their own")
    gamma = draft.number("gradient_estimation_gamma", about="sampler", most=100)
    if gamma is not None:
        if gamma != 2:
            raise bad("gradient_estimation_gamma", gamma, "2, the only one here, or leave it out")
        draft.request["sampler"] = "gradient-estimation"
    if draft.flag("use_restart_sampling"):
        raise RequestError(f"use_restart_sampling is true; {ENGINE_ONLY}", field="use_restart_sampling")


def _adapters(ask: Given) -> None:
    draft = ask.draft
    camera = draft.word("camera_lora", ("none", *CAMERAS), "loras")
    scale = draft.number("camera_lora_scale", least=-10, most=10)
    value = draft.take("loras", None if camera not in (None, "none") else "loras")
    calls.loras_in(ask.jobs, draft, value, "loras", ask.request)
    if camera not in (None, "none"):
        add_camera(draft, ask.jobs, "camera_lora", str(camera), scale)


def add_camera(draft: Draft, jobs: Jobs, name: str, word: str, scale: float | None) -> None:
    """Add the LoRA of a camera's move. Raises RequestError where none is registered."""
    from soundstage.jobs.views import LOCAL

    lora = "camera-" + word.replace("_", "-")
    if lora not in {found["name"] for found in jobs.loras(LOCAL)}:
        raise RequestError(
            f"{name} is {word}, and this server has no LoRA {lora}; register one of that name, or leave "
            f"{name} out",
            field=name,
        )
    draft.lora(f"lora:{lora}", scale)


def _output(draft: Draft) -> bool | None:
    form = draft.word("video_output_type", (*OUTPUTS, PRORES))
    if form == PRORES:
        raise bad("video_output_type", form, ", ".join(OUTPUTS))
    if form is not None:
        draft.job["format"] = OUTPUTS[form]
        draft.decided("format", "video_output_type")
    draft.idle("video_quality", "files are written in one quality here", quiet=("high",))
    draft.idle("video_write_mode", "files are written in one way here", quiet=("balanced",))
    return draft.flag("sync_mode")


# --- the kinds ------------------------------------------------------------------------------------------


def _text(ask: Given) -> None:
    """Read text-to-video, which has nothing of its own."""


def _image(ask: Given) -> None:
    _pictures(ask, ask.needed("image_url", "guides"))


def _pictures(ask: Given, image: str | None) -> None:
    """Read how a first and a last picture are used."""
    draft = ask.draft
    strength = draft.number("image_strength", about="guides", most=1)
    back = draft.word("interpolation_direction", ("forward", "backward")) == "backward"
    end, end_strength = ask.media("end_image_url", "guides"), draft.number("end_image_strength", most=1)
    if back and end is not None:
        raise RequestError(
            "interpolation_direction is backward, and end_image_url is given; with both give forward",
            field="interpolation_direction",
        )
    if image is not None:
        draft.guide(image, at="last" if back else None, strength=strength)
    if end is not None:
        draft.guide(end, at="last", strength=end_strength)


def _audio(ask: Given) -> None:
    draft = ask.draft
    draft.request["audio"] = {"file": ask.needed("audio_url", "audio")}
    draft.only("audio_strength", 1, "a given sound is kept as it is")
    draft.idle("preprocess_audio", "the sound is used as it is", quiet=(False,))
    if draft.flag("match_audio_length") and draft.request.pop("num_frames", None) is not None:
        draft.warn("num_frames has no effect: match_audio_length is true")
    _pictures(ask, ask.media("image_url", "guides"))


def _extend(ask: Given) -> None:
    draft, video = ask.draft, ask.needed("video_url", "source")
    mode = draft.word("mode", ("start", "end"))
    direction = draft.word("extend_direction", ("forward", "backward"))
    seconds = draft.number("duration", about="source", least=0.01, most=86_400)
    frames = draft.whole("num_frames", about="source", least=1)
    match = draft.flag("match_input_fps")
    if match is not False and draft.request.pop("fps", None) is not None:
        draft.warn("fps has no effect: match_input_fps is true, and the clip's own rate is kept")
    if seconds is None:
        rate = draft.request.get("fps", OPEN_FPS)
        is_hosted = ask.route.hosted and frames is None
        seconds = HOSTED_EXTEND_S if is_hosted else (frames or OPEN_FRAMES) / rate
    where = "extend_before_s" if mode == "start" or direction == "backward" else "extend_after_s"
    draft.request["source"] = {"video": video, where: seconds}
    draft.idle("num_context_frames", "the whole clip is looked at")
    draft.idle("context", "the whole clip is looked at")
    draft.only("video_strength", 1, "what is given is kept as it is")
    draft.only("audio_strength", 1, "what is given is kept as it is")


def _retake(ask: Given) -> None:
    draft, video = ask.draft, ask.needed("video_url", "source")
    set_retake(draft, video, "retake_mode")


def set_retake(draft: Draft, video: str, mode_name: str) -> None:
    """Read which part of a clip is made anew."""
    start = draft.number("start_time", about="source", most=86_400) or 0.0
    seconds = draft.number("duration", about="source", least=0.01, most=86_400) or RETAKE_S
    mode = draft.word(mode_name, tuple(RETAKES)) or "replace_audio_and_video"
    span = {"start_s": start, "end_s": start + seconds}
    draft.request["source"] = {"video": video, "regenerate": [span], "modalities": RETAKES[mode]}


def _video(ask: Given) -> None:
    draft, video = ask.draft, ask.needed("video_url", "source")
    strength = draft.number("video_strength", about="source", most=1)
    sound = draft.number("audio_strength", most=1)
    strength = OPEN_STRENGTH if strength is None else strength
    if strength == 1:
        raise bad("video_strength", 1, "less than 1: at 1 nothing would change")
    source: dict[str, Any] = {"video": video, "denoise": 1 - strength}
    if sound == 1:
        source["modalities"] = ["video"]
    elif sound is not None and sound != strength:
        raise RequestError(
            f"audio_strength is {sound:g}; give 1, which keeps the sound, or {strength:g} as of the picture",
            field="audio_strength",
        )
    draft.request["source"] = source
    if draft.flag("match_video_length") is not False and draft.request.pop("num_frames", None) is not None:
        draft.warn("num_frames has no effect: match_video_length is true")
    _pictures(ask, ask.media("image_url", "guides"))


def _reference(ask: Given) -> None:
    draft, video = ask.draft, ask.needed("video_url", "references")
    draft.only("preprocessor", "none", "the clip is used as it is, so send one that is prepared")
    kind = draft.word("ic_lora_type", ("match_preprocessor", "none", *IC_LORAS), "loras")
    if kind in IC_LORAS:
        draft.lora(f"lora:{IC_LORAS[kind]}")
    reference: dict[str, Any] = {"video": video}
    strength = draft.number("video_strength", about="references", most=1)
    if strength is not None:
        reference["strength"] = strength
    draft.request["references"] = [reference]
    draft.flag("match_video_length")
    _pictures(ask, ask.media("image_url", "guides"))


def _inpaint(ask: Given) -> None:
    video, mask = ask.needed("video_url", "source"), ask.needed("mask_video_url", "source")
    ask.draft.request["source"] = {"video": video, "mask": mask}


def _upscale(ask: Given) -> None:
    draft, video = ask.draft, ask.needed("video_url", "source")
    draft.only("upscale_factor", 2, "clips are made twice as large")
    draft.only("scale", 2, "clips are made twice as large")
    draft.request["recipe"] = "upscale"
    draft.request["source"] = {"video": video, "modalities": ["video"]}


READERS: dict[str, Callable[[Given], None]] = {
    "text-to-video": _text, "image-to-video": _image, "audio-to-video": _audio, "extend": _extend,
    "retake": _retake, "video-to-video": _video, "reference": _reference, "inpaint": _inpaint,
    "upscale": _upscale,
}  # fmt: skip
MODE_WORDS = {
    **{mode: mode for mode in READERS},
    "extend-video": "extend",
    "retake-video": "retake",
    "reference-video": "reference",
    "reference-video-to-video": "reference",
    "reference-to-video": "reference",
    "upscaler": "upscale",
    "upscale-video": "upscale",
    "inpaint-video": "inpaint",
}
