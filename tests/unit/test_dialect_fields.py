"""Fields of other services as fields of a request: each one, its wrong values, and states of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from soundstage.errors import RequestError
from soundstage.jobs.errors import Forbidden, NotFound
from soundstage.jobs.service import Jobs
from soundstage.jobs.states import JobState
from soundstage.jobs.views import Job, JobFault, Links
from soundstage.server.dialects import fal, fal_fields, lightricks, openai, openrouter
from soundstage.server.dialects.draft import Draft
from soundstage.server.failures import HttpFailure

OPEN = "fal-ai/ltx-2.3-22b"
CLIP = "https://example.com/a.mp4"
OWN = (192, 128)
SPAN = {"start_s": 1.0, "end_s": 3.0}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    opened = Jobs.open(tmp_path_factory.mktemp("jobs"))
    yield opened
    opened.close()


def of_fal(jobs: Jobs, app: str, **given: Any) -> Draft:
    return fal_fields.read(app, {"prompt": "A ball.", **given}, jobs, None, OWN)[0]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"seconds": "8"}, {"duration_s": 8.0}),
        ({"size": "1280x720"}, {"size": [1280, 720]}),
        ({"width": "64", "height": 96}, {"size": [64, 96]}),
        ({"num_frames": "49"}, {"num_frames": 49}),
        ({"fps": 25}, {"fps": 25.0}),
        ({"num_inference_steps": 30}, {"steps": 30}),
        ({"guidance_scale": 3.5}, {"guidance": 3.5}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"negative_prompt": "rain"}, {"negative_prompt": "rain"}),
        ({"generate_sound": "false"}, {"modalities": ["video"]}),
        ({"generate_sound": True}, {}),
        ({"lora": "style"}, {"loras": [{"path": "lora:style"}]}),
        ({"lora": {"path": "style", "scale": 0.5}}, {"loras": [{"path": "lora:style", "strength": 0.5}]}),
        ({"lora": '[{"name": "a"}]'}, {"loras": [{"path": "lora:a"}]}),
        ({"extra_params": {"sampler": "res2s"}}, {"sampler": "res2s"}),
        ({"input_reference": {"image_url": CLIP}}, {"guides": [{"image": CLIP}]}),
        ({"image_reference": {"file_id": "as_abc"}}, {"guides": [{"image": "asset:as_abc"}]}),
        ({"video_reference": CLIP}, {"references": [{"video": CLIP}]}),
        ({"audio_reference": CLIP}, {"audio": {"file": CLIP}}),
    ],
)
def test_openais_fields(jobs: Jobs, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    draft = openai.read_create({"prompt": "A ball.", **given}, jobs)
    assert draft.request == {"prompt": "A ball.", **wanted}
    assert draft.warnings == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"seconds": "long"}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"size": "huge"}, "size"),
        ({"width": 64}, "width"),
        ({"num_frames": 1.5}, "num_frames"),
        ({"seed": -1}, "seed"),
        ({"generate_sound": "maybe"}, "generate_sound"),
        ({"extra_params": "x"}, "extra_params"),
        ({"input_reference": 3}, "input_reference"),
        ({"input_reference": {}}, "input_reference"),
        ({"image_reference": "/etc/passwd"}, "image_reference"),
        ({"lora": 3}, "lora"),
    ],
)
def test_openais_wrong_values_are_refused_by_name(jobs: Jobs, given: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as error:
        openai.read_create({"prompt": "A ball.", **given}, jobs)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"duration": 6}, {"duration_s": 6.0}),
        ({"resolution": "720p"}, {"size": "720p"}),
        ({"resolution": "1080p", "aspect_ratio": "9:16"}, {"size": "1080p-portrait"}),
        ({"aspect_ratio": "1:1"}, {"size": "square"}),
        ({"aspect_ratio": "4:3"}, {"size": [181, 136]}),
        ({"size": "1280x720"}, {"size": [1280, 720]}),
        ({"generate_audio": False}, {"modalities": ["video"]}),
        ({"seed": 3}, {"seed": 3}),
        (
            {
                "frame_images": [
                    {"type": "image_url", "image_url": {"url": CLIP}, "frame_type": "first_frame"},
                    {"type": "image_url", "image_url": {"url": CLIP}, "frame_type": "last_frame"},
                ]
            },
            {"guides": [{"image": CLIP}, {"image": CLIP, "at": "last"}]},
        ),
        (
            {"input_references": [{"type": "image_url", "image_url": {"url": CLIP}}]},
            {"references": [{"video": CLIP}]},
        ),
    ],
)
def test_openrouters_fields(jobs: Jobs, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    draft = openrouter.read({"prompt": "A ball.", **given}, jobs, None, OWN)
    assert draft.request == {"prompt": "A ball.", **wanted}
    assert draft.warnings == []


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"negative_prompt": "rain"}, {"negative_prompt": "rain"}),
        ({"num_frames": 121, "fps": 24}, {"num_frames": 121, "fps": 24.0}),
        ({"duration": "6"}, {"duration_s": 6.0}),
        ({"video_size": "landscape_16_9"}, {"size": "landscape"}),
        ({"video_size": "square_hd"}, {"size": "square"}),
        ({"video_size": "portrait_4_3"}, {"size": [136, 181]}),
        ({"video_size": "auto"}, {}),
        ({"video_size": {"width": 64, "height": 96}}, {"size": [64, 96]}),
        ({"resolution": "1440p", "aspect_ratio": "16:9"}, {"size": "1440p-landscape"}),
        ({"generate_audio": False}, {"modalities": ["video"]}),
        ({"use_multiscale": True}, {"recipe": "pro"}),
        ({"use_multiscale": False}, {}),
        ({"num_inference_steps": 40}, {"steps": 40}),
        ({"video_cfg_scale": 3, "video_stg_scale": 1}, {"video_scales": {"cfg": 3.0, "stg": 1.0}}),
        ({"video_modality_scale": 3}, {"video_scales": {"modality": 3.0}}),
        ({"video_rescaling_scale": 0.7}, {"video_scales": {"rescale": 0.7}}),
        ({"audio_cfg_scale": 7}, {"audio_scales": {"cfg": 7.0}}),
        ({"scheduler": "linear_quadratic"}, {"schedule": "linear-quadratic"}),
        ({"acceleration": "high"}, {"cache": "first-block:0.05"}),
        ({"acceleration": "none"}, {}),
        ({"camera_lora": "none"}, {}),
        ({"gradient_estimation_gamma": 2}, {"sampler": "gradient-estimation"}),
        ({"use_restart_sampling": False, "sync_mode": True}, {}),
        ({"loras": [{"path": "style", "scale": 0.8}]}, {"loras": [{"path": "lora:style", "strength": 0.8}]}),
        ({"seed": 9, "video_quality": "high", "video_write_mode": "balanced"}, {"seed": 9}),
    ],
)  # fmt: skip
def test_fals_shared_fields(jobs: Jobs, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    draft = of_fal(jobs, f"{OPEN}/text-to-video/lora", **given)
    assert draft.request == {"prompt": "A ball.", **wanted}
    assert draft.warnings == []


@pytest.mark.parametrize(
    ("mode", "given", "wanted"),
    [
        ("image-to-video", {"image_url": CLIP, "image_strength": 0.7},
         {"guides": [{"image": CLIP, "strength": 0.7}]}),
        ("image-to-video", {"image_url": CLIP, "interpolation_direction": "backward"},
         {"guides": [{"image": CLIP, "at": "last"}]}),
        ("image-to-video", {"image_url": CLIP, "end_image_url": CLIP, "end_image_strength": 0.5},
         {"guides": [{"image": CLIP}, {"image": CLIP, "at": "last", "strength": 0.5}]}),
        ("audio-to-video", {"audio_url": CLIP, "audio_strength": 1, "match_audio_length": True},
         {"audio": {"file": CLIP}}),
        ("extend-video", {"video_url": CLIP, "num_frames": 48},
         {"source": {"video": CLIP, "extend_after_s": 2.0}}),
        ("extend-video", {"video_url": CLIP, "extend_direction": "backward", "duration": 3},
         {"source": {"video": CLIP, "extend_before_s": 3.0}}),
        ("retake", {"video_url": CLIP, "start_time": 1, "duration": 2, "retake_mode": "replace_video"},
         {"source": {"video": CLIP, "regenerate": [SPAN], "modalities": ["video"]}}),
        ("video-to-video", {"video_url": CLIP, "video_strength": 0.25, "audio_strength": 1},
         {"source": {"video": CLIP, "denoise": 0.75, "modalities": ["video"]}}),
        ("reference-video-to-video", {"video_url": CLIP, "preprocessor": "none", "ic_lora_type": "union"},
         {"references": [{"video": CLIP}], "loras": [{"path": "lora:ic-union"}]}),
        ("inpaint", {"video_url": CLIP, "mask_video_url": CLIP}, {"source": {"video": CLIP, "mask": CLIP}}),
        ("upscale", {"video_url": CLIP},
         {"recipe": "upscale", "source": {"video": CLIP, "modalities": ["video"]}}),
        ("distilled/text-to-video", {}, {"recipe": "fast"}),
    ],
)  # fmt: skip
def test_fals_kinds(jobs: Jobs, mode: str, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    draft = of_fal(jobs, f"{OPEN}/{mode}", **given)
    assert draft.request == {"prompt": "A ball.", **wanted}
    assert draft.warnings == []


@pytest.mark.parametrize(
    ("mode", "given", "field"),
    [
        ("text-to-video", {"prompt": None}, "prompt"),
        ("text-to-video", {"video_size": "large"}, "video_size"),
        ("text-to-video", {"video_size": {"width": 64}}, "video_size"),
        ("text-to-video", {"resolution": "wide"}, "resolution"),
        ("text-to-video", {"scheduler": "other"}, "scheduler"),
        ("text-to-video", {"acceleration": "most"}, "acceleration"),
        ("text-to-video", {"camera_lora": "dolly_in"}, "camera_lora"),
        ("text-to-video", {"camera_lora": "spin"}, "camera_lora"),
        ("text-to-video", {"use_restart_sampling": True}, "use_restart_sampling"),
        ("text-to-video", {"gradient_estimation_gamma": 3}, "gradient_estimation_gamma"),
        ("text-to-video", {"distill_lora_first_pass_scale": 0.9}, "distill_lora_first_pass_scale"),
        ("text-to-video", {"video_output_type": "PRORES4444 (.mov)"}, "video_output_type"),
        ("text-to-video", {"loras": "x:y"}, "loras"),
        ("distilled/text-to-video", {"num_inference_steps": 8}, "num_inference_steps"),
        ("distilled/text-to-video", {"use_multiscale": False}, "use_multiscale"),
        ("image-to-video", {}, "image_url"),
        ("image-to-video", {"image_url": "file.png"}, "image_url"),
        ("audio-to-video", {"audio_url": CLIP, "audio_strength": 0.5}, "audio_strength"),
        ("video-to-video", {"video_url": CLIP, "video_strength": 1}, "video_strength"),
        ("video-to-video", {"video_url": CLIP, "audio_strength": 0.5}, "audio_strength"),
        ("reference-video", {"video_url": CLIP, "preprocessor": "pose"}, "preprocessor"),
        ("upscale", {"video_url": CLIP, "upscale_factor": 4}, "upscale_factor"),
        ("extend-video", {"video_url": CLIP, "video_strength": 0.5}, "video_strength"),
    ],
)
def test_what_fal_has_and_is_not_done_here_is_refused(
    jobs: Jobs, mode: str, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(RequestError) as error:
        of_fal(jobs, f"{OPEN}/{mode}", **given)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"enable_prompt_expansion": True}, "enable_prompt_expansion has no effect"),
        ({"enable_safety_checker": True}, "enable_safety_checker has no effect"),
        ({"video_quality": "maximum"}, "video_quality has no effect"),
        ({"video_write_mode": "fast"}, "video_write_mode has no effect"),
        ({"distill_lora_first_pass_scale": 0.2}, "distill_lora_first_pass_scale has no effect"),
        ({"num_frames": 9, "duration": 2}, "num_frames has no effect"),
        ({"anything": 1}, "anything is not a field here"),
    ],
)
def test_what_has_no_effect_is_a_warning(jobs: Jobs, given: dict[str, Any], told: str) -> None:
    warnings = of_fal(jobs, f"{OPEN}/text-to-video", **given).warnings
    assert [text.startswith(told) for text in warnings] == [True]


@pytest.mark.parametrize(
    "app", ["fal-ai/flux/dev", f"{OPEN}", f"{OPEN}/trainer", "x", "fal-ai/ltx-2.5/text-to-video"]
)
def test_other_apps_of_fal_are_not_there(app: str) -> None:
    with pytest.raises(NotFound):
        fal_fields.route_of(app)


@pytest.mark.parametrize(
    ("endpoint", "given", "wanted"),
    [
        ("text-to-video", {"model": "ltx-2-3-pro", "duration": 6, "resolution": "1920x1080", "fps": 25},
         {"recipe": "pro", "duration_s": 6.0, "size": [1920, 1080], "fps": 25.0}),
        ("text-to-video", {"generate_audio": False}, {"modalities": ["video"]}),
        ("image-to-video", {"image_uri": CLIP, "last_frame_uri": CLIP},
         {"guides": [{"image": CLIP}, {"image": CLIP, "at": "last"}]}),
        ("audio-to-video", {"audio_uri": CLIP, "image_uri": CLIP},
         {"audio": {"file": CLIP}, "guides": [{"image": CLIP}]}),
        ("retake", {"video_uri": CLIP, "start_time": 1, "duration": 2, "mode": "replace_audio"},
         {"source": {"video": CLIP, "regenerate": [SPAN], "modalities": ["audio"]}}),
        ("extend", {"video_uri": CLIP, "duration": 2, "mode": "start"},
         {"source": {"video": CLIP, "extend_before_s": 2.0}}),
    ],
)  # fmt: skip
def test_lightricks_fields(jobs: Jobs, endpoint: str, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    draft = lightricks.read(endpoint, {"prompt": "A ball.", **given}, jobs)
    assert draft.request == {"prompt": "A ball.", **wanted}
    assert draft.warnings == []


@pytest.mark.parametrize(
    ("endpoint", "given", "field"),
    [
        ("text-to-video", {"prompt": None}, "prompt"),
        ("text-to-video", {"model": "ltx-2-5-pro"}, "model"),
        ("text-to-video", {"resolution": "1080p"}, "resolution"),
        ("text-to-video", {"camera_motion": "jib_up"}, "camera_motion"),
        ("image-to-video", {}, "image_uri"),
        ("retake", {"video_uri": CLIP, "mode": "all"}, "mode"),
        ("image-to-video", {"image_uri": "ltx://uploads/none"}, "image_uri"),
    ],
)
def test_lightricks_wrong_values(jobs: Jobs, endpoint: str, given: dict[str, Any], field: str) -> None:
    with pytest.raises((RequestError, NotFound)) as error:
        lightricks.read(endpoint, {"prompt": "A ball.", **given}, jobs)
    assert getattr(error.value, "field", field) == field


def test_endpoints_that_lightricks_has_and_we_have_not_are_forbidden(jobs: Jobs) -> None:
    with pytest.raises(Forbidden, match="not offered"):
        lightricks.read("video-to-video-hdr", {"prompt": "A ball."}, jobs)


# --- states and errors --------------------------------------------------------------------------------------


def job_in(state: JobState) -> Job:
    links = Links(self="", events="", cancel="", content="")
    fault = JobFault(code="out_of_memory", message="no room") if state == "failed" else None
    return Job(
        id="job_a", kind="generate", state=state, model="nano", owner="local", via="fal", priority="normal",
        created_at=1.0, links=links, error=fault, request={"prompt": "A ball."},
        label="http://127.0.0.1:1/fal/fal-ai/ltx-2.3-22b/text-to-video?sync_mode=true",
    )  # fmt: skip


# OpenAI, fal, Lightricks v2, OpenRouter, as the table of the serving facts has them.
STATES: dict[str, tuple[str, str, str, str]] = {
    "queued": ("queued", "IN_QUEUE", "pending", "pending"),
    "paused": ("queued", "IN_QUEUE", "pending", "pending"),
    "interrupted": ("queued", "IN_QUEUE", "pending", "pending"),
    "loading": ("in_progress", "IN_PROGRESS", "processing", "in_progress"),
    "running": ("in_progress", "IN_PROGRESS", "processing", "in_progress"),
    "checking": ("in_progress", "IN_PROGRESS", "processing", "in_progress"),
    "encoding": ("in_progress", "IN_PROGRESS", "processing", "in_progress"),
    "succeeded": ("completed", "COMPLETED", "completed", "completed"),
    "failed": ("failed", "COMPLETED", "failed", "failed"),
    "cancelled": ("failed", "COMPLETED", "failed", "cancelled"),
}


@pytest.mark.parametrize("state", get_args(JobState))
def test_every_state_has_a_word_in_every_dialect(jobs: Jobs, state: JobState) -> None:
    job = job_in(state)
    told = (
        openai.video_of(job)["status"],
        fal.status_of(job, "http://127.0.0.1:1")["status"],
        lightricks.told_of(job, jobs, "")["status"],
        openrouter.told_of(job, jobs, "")["status"],
    )
    assert told == STATES[state]


def test_a_failed_job_tells_why_in_every_dialect(jobs: Jobs) -> None:
    job = job_in("failed")
    assert openai.video_of(job)["error"] == {"code": "out_of_memory", "message": "no room"}
    assert fal.fault_of(job) == {"loc": ["body"], "msg": "no room", "type": "out_of_memory"}
    assert lightricks.told_of(job, jobs, "")["error"] == {"type": "out_of_memory", "message": "no room"}
    assert openrouter.told_of(job, jobs, "")["error"] == "no room"
    assert openai.video_of(job_in("cancelled"))["error"]["code"] == "cancelled"


def test_fals_addresses_are_those_of_the_app_without_its_sub_path() -> None:
    told = fal.status_of(job_in("queued"), "http://127.0.0.1:1")
    assert told["response_url"] == "http://127.0.0.1:1/fal/fal-ai/ltx-2.3-22b/requests/job_a"
    assert told["queue_position"] == 0
    assert fal.asked_at(job_in("queued")) == ("http://127.0.0.1:1", "fal-ai/ltx-2.3-22b/text-to-video", True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "service_unavailable_error"),
    ],
)
def test_every_status_has_a_type_of_lightricks(status: int, kind: str) -> None:
    found, body, _ = lightricks.DIALECT.shape(HttpFailure(status, "code", "why"))
    assert found == (400 if status == 422 else status)
    assert body == {"type": "error", "error": {"type": kind, "message": "why"}}
    assert (
        lightricks.V1.shape(HttpFailure(429, "code", "why"))[1]["error"]["type"] == "concurrency_limit_error"
    )


def test_errors_of_the_request_are_told_under_the_services_name(jobs: Jobs) -> None:
    draft = openai.read_create({"prompt": "A ball.", "seconds": "9000"}, jobs)
    assert draft.told(RequestError("too long", field="duration_s")).field == "seconds"
    assert draft.told(RequestError("no", field="other")).field == "other"


def test_a_whole_number_without_a_largest_is_told_so() -> None:
    with pytest.raises(RequestError, match=r"num_frames is 'x'; give a whole number, 0 or more$"):
        Draft({"num_frames": "x"}).whole("num_frames")
