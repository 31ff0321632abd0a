"""The engine in diffusers' words: the same clip as its own request, adapters by name, clear refusals."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import soundstage as ss
from soundstage.compat import diffusers as compat
from soundstage.compat.diffusers import FlowMatchEulerDiscreteScheduler, PipelineOutput
from soundstage.engine import Engine
from soundstage.errors import RequestError
from tests.tiny_model import TinyParts, write_tiny_model

PROMPT = "A red ball bounces."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ss.LTXVideoPipeline:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)
    return ss.LTXVideoPipeline.from_pretrained(folder, torch_dtype=torch.float32)


def test_a_call_is_a_request(pipe: ss.LTXVideoPipeline) -> None:
    steps: list[int] = []

    def on_step(_: Any, step: int, timestep: torch.Tensor, tensors: Mapping[str, Any]) -> None:
        assert 0 < timestep <= 1000
        assert tensors["latents"].shape == (1, 8, 128)
        steps.append(step)

    made = pipe(
        PROMPT,
        width=64,
        height=64,
        num_frames=9,
        frame_rate=12,
        num_inference_steps=2,
        guidance_scale=2.0,
        modality_scale=1.0,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        callback_on_step_end=on_step,
    )
    same = pipe.engine.generate(
        PROMPT,
        size=(64, 64),
        num_frames=9,
        fps=12,
        steps=2,
        video_guidance=2.0,
        video_scales={"modality": 1.0},
        seed=7,
    )
    assert steps == [0, 1]
    assert isinstance(made, PipelineOutput)
    assert same.frames is not None
    assert np.array_equal(made.frames[0], same.frames.astype("float32") / 255)
    assert same.waveform is not None
    assert np.array_equal(made.audio[0].numpy(), same.waveform)
    assert made.clips[0].request == same.request


def test_pictures_come_out_as_pictures_and_latents_as_latents(pipe: ss.LTXVideoPipeline) -> None:
    words: dict[str, Any] = {"num_frames": 9, "num_inference_steps": 1, "return_dict": False, "seed": 1}
    frames, audio = pipe(PROMPT, **words)
    assert [frame.size for frame in frames[0]] == [(64, 64)] * 9
    assert audio.shape[:2] == (1, 2)
    assert audio.dtype == torch.float32
    tensor = pipe(PROMPT, output_type="pt", **words)[0]
    assert tensor.shape == (1, 9, 3, 64, 64)
    assert np.array_equal(
        (tensor[0, 4] * 255).round().byte().permute(1, 2, 0).numpy(), np.asarray(frames[0][4])
    )
    latents, sound = pipe(PROMPT, output_type="latent", **words)
    assert latents.shape == (1, 128, 2, 2, 2)
    assert sound.shape == (1, 8, 9, 16)


@pytest.fixture
def asked(pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ss.Request]:
    """The request that a call would run."""
    seen: list[ss.Request] = []

    def stop(engine: Any, request: ss.Request) -> None:
        seen.append(request)
        raise StopIteration

    def ask() -> ss.Request:
        with pytest.raises(StopIteration):
            pipe(PROMPT)
        return seen[-1]

    monkeypatch.setattr(Engine, "plan", stop)
    return ask


def test_adapters_are_called_by_name(
    pipe: ss.LTXVideoPipeline, tmp_path: Path, asked: Callable[[], ss.Request]
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").touch()
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="b.safetensors", adapter_name="style")
    assert pipe.get_list_adapters() == {"transformer": ["default_0", "style"]}
    pipe.set_adapters(["style", "default_0"], [0.5, 0.25])
    assert [(Path(lora.path).stem, lora.strength) for lora in asked().loras] == [("b", 0.5), ("a", 0.25)]
    pipe.disable_lora()
    assert pipe.get_active_adapters() == []
    pipe.enable_lora()
    pipe.delete_adapters("style")
    assert pipe.get_active_adapters() == ["default_0"]


def test_a_dict_of_weights_is_multipliers_of_groups(
    pipe: ss.LTXVideoPipeline, tmp_path: Path, asked: Callable[[], ss.Request]
) -> None:
    a, b = (str(tmp_path / f"{name}.safetensors") for name in "ab")
    for path in (a, b):
        Path(path).touch()
        pipe.load_lora_weights(path, adapter_name=Path(path).stem)
    groups: dict[Any, float] = {"video": 1.0, "audio": 0.5}
    pipe.set_adapters(["a", "b"], [groups, 0.3])
    assert asked().loras == (ss.Lora(a, groups=groups), ss.Lora(b, 0.3))
    pipe.set_adapters(["a", "b"], {"audio": 0})
    assert asked().loras == (ss.Lora(a, groups={"audio": 0}), ss.Lora(b, groups={"audio": 0}))
    pipe.set_adapters("a")  # nothing stays of the weights before
    assert asked().loras == (ss.Lora(a),)
    for weights, says in (
        ({"sound": 1}, "groups has 'sound'; it should be 'video'"),
        (11.0, "strength is 11"),
    ):
        with pytest.raises(RequestError, match=says):
            pipe.set_adapters("a", weights)
    assert asked().loras == (ss.Lora(a),)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"prompt_embeds": 1}, "prompt_embeds is 1, and prompts are read within the engine"),
        ({"promt": "a"}, "'promt' is not a word of this pipeline; it knows prompt"),
        ({"output_type": "gif"}, "output_type is 'gif'; give one of pil, np, pt, latent"),
        ({"use_cross_timestep": False}, "use_cross_timestep is False, and only LTX-2.0 is run without it"),
        ({"generator": 3}, "generator is 3; give a torch.Generator, or seed"),
        ({"sigmas": [0.5], "timesteps": [500]}, "both sigmas and timesteps are given"),
        ({"sigmas": "many"}, "sigmas is 'many'; give a list of numbers"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt is 0; give a whole number"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 entries for 1 prompts"),
        ({"latents": torch.zeros(1, 3)}, r"latents are of shape \(1, 3\)"),
        (
            {"latents": torch.zeros(1, 128, 2, 2, 2), "width": 96, "height": 64},
            "width is 96, but the latents",
        ),
        (
            {"latents": torch.zeros(1, 128, 2, 2, 2), "noise_scale": 0.5},
            "noise_scale is 0.5, but the steps begin at 1,",
        ),
        (
            {"latents": torch.zeros(1, 128, 2, 2, 2), "audio_latents": torch.zeros(1, 8, 30, 16)},
            "audio_latents has 30 frames, but a clip of 9 frames at 24 a second has 9",
        ),
        ({"denoise_strength": 0.5}, "denoise_strength is given without latents"),
        (
            {"denoise_strength": "a", "latents": torch.zeros(1, 128, 2, 2, 2)},
            "denoise_strength is 'a'; give a",
        ),
        ({"noise_scale": "a", "latents": torch.zeros(1, 128, 2, 2, 2)}, "noise_scale is 'a'; give a number"),
        ({"seed": "a"}, "seed is 'a'; give a whole number"),
        ({"spatio_temporal_guidance_blocks": 5}, "spatio_temporal_guidance_blocks is 5; give a list"),
        ({"attention_kwargs": {"scale": "x"}}, "scale is 'x'; give a number"),
        ({"callback_on_step_end_tensor_inputs": 5}, "callback_on_step_end_tensor_inputs is 5; give a list"),
        ({"attention_kwargs": {"mask": 1}}, "attention_kwargs has mask; only scale"),
        ({"callback_on_step_end": 1}, "callback_on_step_end is 1; give a function"),
        (
            {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
            "callback_on_step_end_tensor_inputs has 'prompt_embeds'; a callback gets latents",
        ),
        ({"width": 64}, "width and height go together"),
        ({"num_inference_steps": 0}, "steps is 0"),
    ],
)
def test_what_does_not_fit_is_refused(pipe: ss.LTXVideoPipeline, words: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        pipe(PROMPT, **words)


def test_adapters_that_do_not_fit_are_refused(pipe: ss.LTXVideoPipeline, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no file"):
        pipe.load_lora_weights(tmp_path / "none.safetensors")
    (tmp_path / "a.safetensors").touch()
    pipe.load_lora_weights(tmp_path / "a.safetensors", adapter_name="a")
    with pytest.raises(RequestError, match="is loaded already"):
        pipe.load_lora_weights(tmp_path / "a.safetensors", adapter_name="a")
    with pytest.raises(RequestError, match="adapter b is not loaded; loaded: a"):
        pipe.set_adapters("b")
    with pytest.raises(RequestError, match="2 values for 1 adapters"):
        pipe.set_adapters(["a"], [1.0, 2.0])


# --- several clips, seeds ------------------------------------------------------------------------------

SHORT: dict[str, Any] = {
    "num_frames": 9,
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "output_type": "np",
}


def test_prompts_and_takes_make_a_clip_each(pipe: ss.LTXVideoPipeline) -> None:
    generator = torch.Generator().manual_seed(7)
    made = pipe(["A ball.", "A cube."], num_videos_per_prompt=2, generator=generator, **SHORT)
    assert made.frames.shape == (4, 9, 64, 64, 3)
    assert [clip.request.prompt for clip in made.clips] == ["A ball.", "A ball.", "A cube.", "A cube."]
    seeds = [clip.request.seed for clip in made.clips]
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    again = pipe(["A ball."], generator=torch.Generator().manual_seed(7), **SHORT)
    assert np.array_equal(again.frames[0], made.frames[0])


def test_a_generator_moves_on_from_call_to_call(pipe: ss.LTXVideoPipeline) -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (pipe(PROMPT, generator=generator, **SHORT).clips[0].request.seed for _ in range(2))
    assert first == 3
    assert second != 3
    many = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    made = pipe(["A ball.", "A cube."], generator=many, **SHORT)
    assert [clip.request.seed for clip in made.clips] == [5, 6]
    with pytest.raises(RequestError, match="generator has 2 entries for 1 clips"):
        pipe(PROMPT, generator=many, **SHORT)


def test_without_a_generator_pytorchs_own_numbers_give_the_seed(pipe: ss.LTXVideoPipeline) -> None:
    seeds = []
    for _ in range(2):
        torch.manual_seed(1)
        seeds += [pipe(PROMPT, **SHORT).clips[0].request.seed for _ in range(2)]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


# --- what the words become -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ({"sigmas": [1.0, 0.5]}, {"sigmas": (1.0, 0.5, 0.0), "steps": None}),
        ({"timesteps": [1000, 500, 0], "num_inference_steps": 9}, {"sigmas": (1.0, 0.5, 0.0), "steps": None}),
        ({"guidance_scale": 3.0}, {"video_guidance": 3.0, "guidance": None}),
        (
            {"guidance_scale": 1.0, "negative_prompt": "blurry"},
            {"guidance": 1.0, "video_scales": {"stg": 0, "modality": 1}, "negative_prompt": None},
        ),
        (
            {"guidance_scale": 1.0, "audio_guidance_scale": 2.0, "negative_prompt": "blurry"},
            {"video_guidance": 1.0, "audio_guidance": 2.0, "negative_prompt": "blurry"},
        ),
        (
            {"stg_scale": 0.5, "spatio_temporal_guidance_blocks": [1]},
            {"video_scales": {"stg": 0.5, "stg_blocks": (1,)}},
        ),
    ],
)
def test_words_become_fields(
    pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], fields: dict[str, Any]
) -> None:
    request = asked_by(pipe, monkeypatch, PROMPT, **words)
    assert {name: getattr(request, name) for name in fields} == fields


def asked_by(pipe: Any, monkeypatch: pytest.MonkeyPatch, *values: Any, **words: Any) -> ss.Request:
    """The request of a call."""
    seen: list[ss.Request] = []

    def stop(engine: Any, request: ss.Request) -> None:
        seen.append(request)
        raise StopIteration

    monkeypatch.setattr(Engine, "plan", stop)
    with pytest.raises(StopIteration):
        pipe(*values, **words)
    return seen[-1]


def test_pictures_and_clips_become_guides_and_references(
    pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Image.new("RGB", (64, 64), "red")
    of_image = asked_by(
        ss.LTX2ImageToVideoPipeline.from_pipe(pipe), monkeypatch, picture, PROMPT, image_crf=20
    )
    assert [(g.frame, g.crf, g.image.frames.shape) for g in of_image.guides] == [(0, 20, (1, 64, 64, 3))]
    condition = compat.LTX2VideoCondition
    found = asked_by(
        ss.LTX2ConditionPipeline.from_pipe(pipe),
        monkeypatch,
        [condition(picture), condition([picture] * 9, 2, 0.5), condition(picture, -1)],
        PROMPT,
        num_frames=33,
    )
    assert [(g.frame, g.strength, len(g.image.frames)) for g in found.guides] == [
        (0, 1, 1),
        (9, 0.5, 9),
        (25, 1, 1),
    ]
    old = compat.LTXVideoCondition(video=[picture] * 9, frame_index=8)
    assert (
        asked_by(ss.LTXConditionPipeline.from_pipe(pipe), monkeypatch, old, prompt=PROMPT).guides[0].frame
        == 8
    )
    context = asked_by(
        ss.LTX2InContextPipeline.from_pipe(pipe),
        monkeypatch,
        PROMPT,
        reference_conditions=compat.LTX2ReferenceCondition([picture] * 9, 0.7),
        reference_downscale_factor=2,
        conditioning_attention_strength=0.5,
        conditioning_attention_mask=torch.ones(1, 1, 9, 64, 64),
    )
    reference = context.references[0]
    assert (reference.strength, reference.downscale, reference.attention) == (0.7, 2, 0.5)
    assert reference.mask is not None
    assert reference.mask.frames.shape == (9, 64, 64, 3)
    with pytest.raises(RequestError, match="image is not given, and LTX2ImageToVideoPipeline needs it"):
        ss.LTX2ImageToVideoPipeline.from_pipe(pipe)(prompt=PROMPT)
    with pytest.raises(RequestError, match=r"conditions has 'door.png'; give LTX2VideoCondition"):
        ss.LTX2ConditionPipeline.from_pipe(pipe)("door.png", PROMPT)


def test_a_scheduler_becomes_a_schedule(pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_by(pipe, monkeypatch, PROMPT).schedule is None
    changes = {"use_dynamic_shifting": False, "shift_terminal": None}
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, **changes)
    assert asked_by(pipe, monkeypatch, PROMPT).schedule == "linear"
    assert asked_by(pipe, monkeypatch, PROMPT, sigmas=[0.9]).schedule is None
    pipe.scheduler = compat.LTXEulerAncestralRFScheduler()
    assert asked_by(pipe, monkeypatch, PROMPT).sampler == "euler-ancestral"
    for wrong, says in (
        (object(), "scheduler is a object, which Soundstage does not have"),
        (FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), "use_karras_sigmas"),
        (FlowMatchEulerDiscreteScheduler(shift_terminal=None), "shift_terminal"),
    ):
        with pytest.raises(RequestError, match=says):
            pipe.scheduler = wrong


# --- latents, callbacks --------------------------------------------------------------------------------


def test_latents_given_are_what_the_steps_start_from(pipe: ss.LTXVideoPipeline) -> None:
    video, audio = pipe(PROMPT, **{**SHORT, "output_type": "latent"}, seed=1, return_dict=False)
    words: dict[str, Any] = {"sigmas": [0.01], "guidance_scale": 1.0, "output_type": "latent", "seed": 2}
    near, near_audio = pipe(PROMPT, latents=video, audio_latents=audio, noise_scale=0.01, **words).to_tuple()
    assert (near - video).abs().mean() < 0.1 * video.abs().mean()
    assert (near_audio - audio).abs().mean() < 0.1 * audio.abs().mean()
    packed = video.flatten(2).transpose(1, 2)
    shape = {"width": 64, "height": 64, "num_frames": 9}
    assert torch.equal(pipe(PROMPT, latents=packed, audio_latents=audio, **shape, **words).frames, near)
    clip = pipe(PROMPT, latents=video, audio_latents=audio, **{**words, "output_type": "np"}).clips[0]
    assert set(clip.provenance["given_latents_sha256"]) == {"video", "audio"}
    steps = []
    pipe(
        PROMPT,
        latents=video,
        denoise_strength=0.5,
        num_inference_steps=4,
        guidance_scale=1.0,
        output_type="latent",
        callback_on_step_end=lambda pipe, i, t, tensors: steps.append(i),
    )
    assert steps == [0, 1]


def test_a_callback_may_change_latents(pipe: ss.LTXVideoPipeline) -> None:
    def zeros(_: Any, step: int, t: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: torch.zeros_like(x) for name, x in tensors.items()} if step == 1 else {}

    words: dict[str, Any] = {**SHORT, "num_inference_steps": 2, "output_type": "latent", "seed": 1}
    names = ["latents", "audio_latents"]
    made = pipe(PROMPT, callback_on_step_end=zeros, callback_on_step_end_tensor_inputs=names, **words)
    assert not made.frames.any()
    assert not made.audio.any()
    with pytest.raises(RequestError, match=r"the video latents were changed to \(1, 2\)"):
        pipe(PROMPT, callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 2)}, **words)


def test_kept_tokens_stay_whatever_a_callback_returns(pipe: ss.LTXVideoPipeline) -> None:
    image = Image.new("RGB", (64, 64), "red")
    words: dict[str, Any] = {**SHORT, "output_type": "latent", "seed": 1}
    image_pipe = ss.LTX2ImageToVideoPipeline.from_pipe(pipe)
    plain = image_pipe(image, PROMPT, **words).frames
    made = image_pipe(
        image, PROMPT, callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 8, 128)}, **words
    ).frames
    assert torch.equal(made[:, :, 0], plain[:, :, 0])
    assert not made[:, :, 1].any()


def test_an_interrupted_clip_shows_what_is_there(pipe: ss.LTXVideoPipeline) -> None:
    seen: list[torch.Tensor] = []

    def stop(pipe: Any, step: int, t: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"].clone())
        pipe._interrupt = step == 1
        return {}

    words: dict[str, Any] = {**SHORT, "num_inference_steps": 4, "seed": 1, "callback_on_step_end": stop}
    made = pipe(PROMPT, **{**words, "output_type": "latent"})
    assert len(seen) == 2
    assert pipe.interrupt
    assert torch.equal(made.frames.flatten(2).transpose(1, 2), seen[-1])
    assert pipe(PROMPT, **words).frames.shape == (1, 9, 64, 64, 3)
    assert pipe.num_timesteps == 0 or len(seen) == 4


# --- places, parts, adapters ---------------------------------------------------------------------------


def test_places_become_options_of_the_engine(
    pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipe.to("cpu") is pipe
    assert pipe.to(torch.float32).dtype == torch.float32
    assert pipe.device == torch.device("cpu")
    with pytest.warns(UserWarning, match="offloading has no effect: the model runs on the CPU"):
        pipe.enable_model_cpu_offload()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.enable_sequential_cpu_offload(device="cpu")  # told once
    monkeypatch.setattr("soundstage.compat.diffusers.placing.pick_device", lambda name: "cuda")
    pipe.enable_model_cpu_offload()
    assert pipe.engine.options["residency"] == "offload"
    pipe.enable_sequential_cpu_offload()
    assert pipe.engine.options["residency"] == "stream"
    pipe.enable_group_offload(offload_to_disk_path="here")
    assert pipe.engine.options["residency"] == "disk"
    pipe.remove_all_hooks()
    assert pipe.engine.options["residency"] == "auto"
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn)
    assert pipe.engine.options["weights"] == "fp8-cast"
    if not torch.cuda.is_available():
        with pytest.raises(RequestError, match="device is 'cuda', which this machine does not have"):
            pipe.to("cuda")


def test_what_has_no_effect_is_told_once(pipe: ss.LTXVideoPipeline) -> None:
    for ask, says in (
        (pipe.vae.enable_tiling, "enable_tiling of the vae has no effect: Soundstage decodes in pieces"),
        (pipe.enable_vae_slicing, "enable_vae_slicing has no effect"),
        (lambda: pipe.transformer.set_attention_backend("flash"), "set_attention_backend of the transformer"),
        (lambda: pipe.transformer.to(memory_format=torch.channels_last), "memory_format has no effect"),
        (pipe.enable_xformers_memory_efficient_attention, "picks the attention kernel by itself"),
    ):
        with pytest.warns(UserWarning, match=says):
            ask()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ask()
    with pytest.warns(UserWarning, match="compile of the transformer has no effect"):
        pipe.transformer = torch.compile(pipe.transformer, mode="max-autotune")


def test_what_is_not_there_is_refused_with_what_to_do(pipe: ss.LTXVideoPipeline) -> None:
    for ask, says in (
        (lambda: pipe.encode_prompt("a"), "encode_prompt is not there: prompts are read within the engine"),
        (lambda: pipe.save_pretrained("a"), "`soundstage models convert` writes a model"),
        (lambda: pipe.vae.decode(1), "decode of the vae is not there: give latents to a pipeline"),
        (lambda: setattr(pipe, "vae", pipe.transformer), "vae is a transformer; give the vae"),
        (lambda: setattr(pipe, "vae", torch.nn.Linear(1, 1)), "vae is a Linear; weights come from files"),
        (lambda: compat.LTX2HDRPipeline, "'LTX2HDRPipeline' has no counterpart in Soundstage"),
        (lambda: ss.LTX2Pipeline(3), "not of 3"),  # type: ignore[arg-type]
        (lambda: pipe.from_pretrained("nano", custom_pipeline="x"), "custom_pipeline is 'x', and no foreign"),
        (lambda: compat.AutoModel.from_pretrained("a/b", subfolder="unet"), "subfolder is 'unet'; a part of"),
    ):
        with pytest.raises(RequestError, match=says):
            ask()
    assert not hasattr(pipe, "nothing")
    assert pipe.vocoder.config.output_sampling_rate == 48_000


def test_parts_bring_what_was_set_on_them(folder: Path) -> None:
    transformer = compat.AutoModel.from_pretrained(str(folder), subfolder="transformer")
    transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn)
    made = ss.LTX2Pipeline.from_pretrained(folder, transformer=transformer, dtype=torch.float32)
    assert made.engine.options["weights"] == "fp8-cast"
    assert made.transformer is transformer
    eight = transformers_config(load_in_8bit=True)
    with pytest.warns(UserWarning, match="becomes weights='int8'"):
        quantized = ss.LTX2Pipeline.from_pretrained(folder, quantization_config=eight)
    assert quantized.engine.options["weights"] == "int8"
    other = compat.AutoModel.from_pretrained("owner/name", subfolder="transformer")
    with pytest.raises(RequestError, match="transformer is of 'owner/name', the pipeline of"):
        ss.LTX2Pipeline.from_pretrained(folder, transformer=other)
    with pytest.warns(UserWarning, match="the upsampler of owner/name has no effect"):
        ss.LTX2LatentUpsamplePipeline(made.vae, compat.LTX2LatentUpsamplerModel.from_pretrained("owner/name"))
    with pytest.raises(RequestError, match="less than or other than 8 bits"):
        ss.LTX2Pipeline.from_pretrained(folder, quantization_config=transformers_config(load_in_4bit=True))


def transformers_config(**values: bool) -> Any:
    """A config as `BitsAndBytesConfig` has it."""
    return type("BitsAndBytesConfig", (), values)()


def test_fused_adapters_stay(
    pipe: ss.LTXVideoPipeline, tmp_path: Path, asked: Callable[[], ss.Request]
) -> None:
    file = tmp_path / "a.safetensors"
    file.touch()
    pipe.load_lora_weights(tmp_path, adapter_name="a")  # the only one in the folder
    pipe.set_adapters("a", 0.5)
    pipe.fuse_lora(lora_scale=0.5)
    assert (pipe.num_fused_loras, pipe.fused_loras) == (1, {"a"})
    assert asked().loras == (ss.Lora(str(file), 0.25),)
    pipe.unload_lora_weights()
    assert asked().loras == (ss.Lora(str(file), 0.25),)
    pipe.unfuse_lora()
    assert asked().loras == ()
    pipe.load_lora_weights(str(file), adapter_name="b")
    pipe.load_lora_weights(str(file), adapter_name="b", hotswap=True)
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(RequestError, match=r"holds a.safetensors, b.safetensors; name one by weight_name"):
        pipe.load_lora_weights(tmp_path)
