"""High dynamic range end to end over a tiny model: plans, light from latents, inputs, the command line."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import soundstage as ss
from soundstage.cli.request_fields import request_fields
from soundstage.clip import Clip, write_clip
from soundstage.engine import Engine
from soundstage.errors import RequestError, WeightsError
from soundstage.jobs.references import checked_fields
from soundstage.library.model_files import find_model
from soundstage.media.clip_pieces import ClipPieces
from soundstage.media.exr import write_exr
from soundstage.media.formats import output
from soundstage.media.hdr import Hdr, shown
from soundstage.media.light import from_logc3, to_logc3
from soundstage.planning.plan import Plan
from soundstage.rendering import decode
from soundstage.rendering.decode import finished_frames
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done
from soundstage.rendering.parts import ModelParts
from tests.quick_codecs import QuickCodecs
from tests.tiny_model import write_tiny_model

FPS = 24.0
UNGUIDED: dict[str, Any] = {"guidance": 1, "stg": 0, "modality_guidance": 1, "steps": 2, "seed": 1}
SHORT = {**UNGUIDED, "size": (64, 64), "num_frames": 9, "modalities": "video"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    parts = QuickCodecs(model, torch.device("cpu"), torch.float32)
    return Engine(model, device="cpu", parts=parts, cache=EncodingCache())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence of light, `light/`; the same in standard range, `plain.mkv`; and LoRAs."""
    where = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    linear = np.repeat(np.repeat(rng.lognormal(0, 1.5, (9, 2, 2, 3)), 32, 1), 32, 2).astype(np.float16)
    frames = np.stack([shown(frame, Hdr()) for frame in linear])
    Clip(frames, None, FPS, linear=linear, hdr=Hdr()).save(f"{where / 'light'}/")
    Clip(frames, None, FPS).save(where / "plain.mkv", codec="ffv1")
    pair = {
        f"diffusion_model.transformer_blocks.0.attn1.to_q.lora_{side}.weight": torch.zeros(4, 64)
        if side == "A"
        else torch.zeros(64, 4)
        for side in "AB"
    }
    for name, hdr in (
        ("hdr", "logc3"),
        ("true", "true"),
        ("aces", "acescct"),
        ("odd", "slog3"),
        ("none", None),
    ):
        save_file(pair, where / f"{name}.safetensors", {} if hdr is None else {"hdr_transform": hdr})
    return where


def done(stage: Engine, **fields: Any) -> Done:
    *_, last = stage.run(ss.Request(prompt="HDR footage", **{**SHORT, **fields}))
    assert isinstance(last, Done)
    return last


def planned(stage: Engine, **fields: Any) -> Plan:
    return stage.plan(ss.Request(prompt="HDR footage", **{**SHORT, **fields}))


# --- light from latents ----------------------------------------------------------------------------------


def test_light_is_the_curve_of_what_is_decoded_and_the_latents_are_those_of_standard_range(
    stage: Engine,
) -> None:
    plain, high = done(stage), done(stage, output="exr")
    assert plain.video_latents is not None
    assert high.video_latents is not None
    assert torch.equal(plain.video_latents, high.video_latents)
    assert plain.clip.linear is None
    parts: Any = stage._parts
    pixels = parts.decode_video(high.video_latents)[0].permute(1, 2, 3, 0).numpy()
    light = from_logc3((pixels + 1) / 2).astype(np.float16)
    assert high.clip.linear is not None
    assert high.clip.frames is not None
    assert np.array_equal(high.clip.linear, light)
    assert np.array_equal(high.clip.frames, np.stack([shown(f, Hdr()) for f in light]))
    assert high.clip.hdr == Hdr(curve="logc3")
    assert high.clip.request.output == Hdr()


def test_a_clip_with_light_can_be_cut_and_given_on(stage: Engine) -> None:
    clip = done(stage, output=Hdr(exposure=1)).clip
    assert clip.linear is not None
    part = clip.trim(0, 4 / FPS)
    assert part.linear is not None
    assert np.array_equal(part.linear, clip.linear[:4])
    again = done(
        stage,
        output="exr",
        source=ss.Source(clip, extend_after_s=8 / FPS),
        num_frames=None,
        modalities=("video", "audio"),
    )
    assert again.clip.linear is not None
    assert len(again.clip.linear) == 17


def test_what_is_kept_of_a_source_keeps_its_light_bit_for_bit(stage: Engine, folder: Path) -> None:
    given = Clip.open(folder / "light").linear
    source = ss.Source(folder / "light", extend_after_s=8 / FPS, feather_s=0)
    clip = done(
        stage, output="exr", source=source, size=None, num_frames=None, modalities=("video", "audio")
    ).clip
    assert clip.linear is not None
    assert given is not None
    assert np.array_equal(clip.linear[:4], given[:4])
    assert not np.array_equal(clip.linear[9:], np.repeat(given[-1:], 8, 0))


def test_a_guide_of_light_is_coded_as_the_model_codes_it(
    stage: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "light" / "frame_00000.exr"
    seen = encoded_by(stage, monkeypatch)
    done(stage, output="exr", guides=path)
    first = Clip.open(path).linear
    assert first is not None
    codes = (seen[0][0, :, 0] + 1).permute(1, 2, 0).numpy() / 2
    assert codes == pytest.approx(to_logc3(first[0]), abs=1e-6)


def encoded_by(stage: Engine, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The pixels that the engine encodes from now on."""
    seen: list[torch.Tensor] = []
    parts: Any = stage._parts
    real = parts.encode_video

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        found: torch.Tensor = real(pixels)
        return found

    monkeypatch.setattr(parts, "encode_video", encode)
    return seen


def test_memory_does_not_grow_with_the_length(
    stage: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_LIGHT_IN_MEMORY", 2**14)
    parts: Any = stage._parts

    class InPieces(type(parts)):  # type: ignore[misc]
        def decode_pieces(self, latents: torch.Tensor) -> Any:
            for piece in latents.split(2, dim=2):
                count = 8 * piece.shape[2] - (7 if piece.data_ptr() == latents.data_ptr() else 0)
                yield torch.zeros(1, 3, count, 64, 64)

    monkeypatch.setattr(parts, "__class__", InPieces)
    peaks = []
    for num_latents in (5, 41):
        plan = replace(planned(stage, output="exr"), num_frames=8 * num_latents - 7)
        latents = torch.zeros(1, 128, num_latents, 2, 2)
        tracemalloc.start()
        made = finished_frames(plan, parts, EncodedInputs(plan, parts, EncodingCache()), latents)
        assert made.light is not None
        pieces = ClipPieces.of_arrays(made.light, FPS, None, 48_000)
        where = output(f"{tmp_path / str(num_latents)}/", len(made.light), hdr=plan.hdr)
        where.check(len(made.light))
        write_clip(where, pieces, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(list((tmp_path / str(num_latents)).iterdir())) == 8 * num_latents - 7
    assert peaks[1] < 1.2 * peaks[0]


def test_a_temporary_folder_without_room_is_named(stage: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode, "MAX_LIGHT_IN_MEMORY", 0)
    monkeypatch.setattr(decode.os, "posix_fallocate", full)
    with pytest.raises(
        ss.MediaError, match=r"the frames need .* GB in the temporary folder .* \(No space left"
    ):
        done(stage, output="exr")


def test_light_is_decoded_in_float32_whatever_the_run_is_made_in() -> None:
    model, cpu = find_model("nano"), torch.device("cpu")
    whole, half = (ModelParts(model, cpu, dtype) for dtype in (torch.float32, torch.bfloat16))
    latents = torch.randn(1, 128, 2, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        wanted = torch.cat(list(whole.decode_precisely(latents.float())), 2)
        assert torch.equal(torch.cat(list(half.decode_precisely(latents)), 2), wanted)
        rough = torch.cat(list(half.decode_pieces(latents)), 2).float()
    assert (rough - wanted).abs().max() > 1e-3


# --- what decides, and what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loras", "asked", "curve"),
    [((), None, "logc3"), (("hdr",), None, "logc3"), (("true",), None, "logc3"), (("aces",), None, "acescct"),
     (("hdr",), "acescct", "acescct"), (("none",), None, "logc3")],
)  # fmt: skip
def test_the_file_of_a_lora_says_the_curve(
    stage: Engine, folder: Path, loras: tuple[str, ...], asked: Any, curve: str
) -> None:
    paths = [str(folder / f"{name}.safetensors") for name in loras]
    plan = planned(stage, output=Hdr(curve=asked), loras=paths)
    assert plan.hdr is not None
    assert plan.hdr.curve == curve
    assert ("no LoRA is given whose file says" in " ".join(plan.notices)) == (loras in ((), ("none",)))
    assert f"light     {curve}, written as exr" in str(plan)


def test_an_hdr_lora_without_the_output_is_told(stage: Engine, folder: Path) -> None:
    plan = planned(stage, loras=str(folder / "hdr.safetensors"))
    assert plan.hdr is None
    assert any("trained for high dynamic range (logc3)" in notice for notice in plan.notices)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"source": {"video": "light", "extend_after_s": 1}}, "source.video is OpenEXR, which has high"),
        ({"guides": "light/frame_00000.exr"}, r"guides\[0\].image is OpenEXR"),
        ({"references": "light"}, r"references\[0\].video is OpenEXR, and adapters follow clips in standard"),
        ({"references": "light", "output": "exr"}, r"references\[0\].video is OpenEXR, and adapters"),
        ({"controls": "canny:light"}, r"controls\[0\].file is OpenEXR, and adapters follow clips"),
        ({"guides": "plain.mkv", "output": "exr"}, r"guides\[0\].image is in standard range"),
        (
            {"guides": ["light/frame_00000.exr", {"image": "plain.mkv", "at": "last"}], "output": "exr"},
            r"guides\[1\].image is in standard range",
        ),
        ({"guides": {"image": "light/frame_00000.exr", "crf": 9}, "output": "exr"}, "light is not compress"),
        ({"loras": "odd.safetensors", "output": "exr"}, "trained for the curve 'slog3', which is not known"),
        ({"loras": ["hdr.safetensors", "aces.safetensors"], "output": "exr"}, "trained for different curves"),
        ({"output": "exr", "modalities": "audio", "size": None}, "only sound is made"),
        ({"output": {"space": "aces"}}, "output.space is 'aces'; give acescg"),
        ({"embeddings": "hdr.safetensors"}, "has no tensor video_context; give a file of contexts"),
        ({"embeddings": "missing.safetensors"}, "missing.safetensors"),
    ],
)  # fmt: skip
def test_light_and_standard_range_are_not_mixed(
    stage: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError, match=told):
        planned(stage, **fields)


def test_a_reference_is_not_prepared_from_light(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ss.MediaError, match="is OpenEXR, and adapters follow clips in standard range"):
        ss.prepare_control("canny", folder / "light", tmp_path / "a.mkv")


def test_a_server_takes_no_files_of_high_dynamic_range() -> None:
    named = {"prompt": "a", "output": {"space": "ACEScg", "ocio": "cg-config-latest"}}
    assert checked_fields(named)["output"]["ocio"] == "cg-config-latest"
    for fields in ({"embeddings": "a.safetensors"}, {"output": {"space": "x", "ocio": "/etc/a.ocio"}}):
        with pytest.raises(RequestError, match="a server takes no"):
            checked_fields({"prompt": "a", **fields})


# --- the recipe, its reference and its embeddings --------------------------------------------------------


def test_the_recipe_has_the_published_passes(folder: Path) -> None:
    plan = ss.load("nano", device="cpu").plan(
        ss.Request(prompt="HDR footage", recipe="hdr", output="exr", references=folder / "plain.mkv")
    )
    draft, refine = plan.passes
    assert draft.sigmas == (1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0)
    assert (draft.sampler, draft.width, plan.width) == ("euler-ancestral", 32, 64)
    assert (refine.sigmas, refine.upsample) == ((0.909375, 0.725, 0), ("space-x2",))
    assert all(len(p.conditions) == 1 and p.kinds == ("cond",) for p in plan.passes)
    assert plan.num_frames == 9  # as long as the reference


def test_a_film_with_light_is_as_large_as_its_reference_which_is_mirrored_to_whole_cells(
    stage: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 40, 70, 3), dtype=np.uint8)
    Clip(frames, None, FPS).save(tmp_path / "a.mkv", codec="ffv1")
    seen = encoded_by(stage, monkeypatch)
    clip = done(stage, output="exr", references=tmp_path / "a.mkv", size=None, num_frames=None).clip
    assert clip.linear is not None
    assert clip.linear.shape == (9, 40, 70, 3)
    pixels = ((seen[0][0] + 1) * 127.5).round().permute(1, 2, 3, 0).numpy()
    assert pixels.shape == (9, 64, 96, 3)
    assert np.array_equal(pixels, np.pad(frames[:9], ((0, 0), (0, 24), (0, 26), (0, 0)), mode="reflect"))


def test_thin_makes_twice_the_frames_from_a_reference_whose_frames_are_doubled(
    stage: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 64 * 64 * 3).reshape(5, 64, 64, 3)
    Clip(frames, None, FPS).save(tmp_path / "a.mkv", codec="ffv1")  # whose times are rounded to milliseconds
    given: dict[str, Any] = {"references": tmp_path / "a.mkv", "size": None, "num_frames": None, "thin": 2}
    plan = planned(stage, output="exr", **given)
    assert (plan.num_frames, plan.thin) == (9, 2)  # 5 are read, 2 x 5 - 1 made, 5 kept
    seen = encoded_by(stage, monkeypatch)
    clip = done(stage, output="exr", **given).clip
    shades = ((seen[0][0, 0, :, 0, 0] + 1) * 127.5).round().int().tolist()
    assert shades == [0, 0, 50, 50, 100, 100, 150, 150, 200]
    assert clip.linear is not None
    assert len(clip.linear) == 5


def test_embeddings_stand_for_the_prompt(stage: Engine, tmp_path: Path) -> None:
    parts: Any = stage._parts
    (contexts,) = parts.encode(["A red ball bounces."])
    path = str(tmp_path / "scene.safetensors")
    save_file({"video_context": contexts.video, "audio_context": contexts.audio}, path)
    by_words = stage.run(ss.Request(prompt="A red ball bounces.", **SHORT))
    *_, words = by_words
    given = done(stage, embeddings=path)
    assert isinstance(words, Done)
    assert words.video_latents is not None
    assert given.video_latents is not None
    assert torch.equal(words.video_latents, given.video_latents)
    assert path in given.clip.provenance["inputs"]
    save_file({"video_context": torch.zeros(1, 4, 7)}, path)
    with pytest.raises(
        WeightsError, match=r"'video_context' has the shape \[1, 4, 7\], and tiny reads contexts of"
    ):
        done(stage, embeddings=path)
    with pytest.raises(RequestError, match="it has 2 parts; give one part"):
        stage.plan(ss.Request(prompt="a | b", embeddings=path, **SHORT))


# --- the command line ------------------------------------------------------------------------------------


def test_options_fill_the_output_and_need_it() -> None:
    made = request_fields({"hdr": "hlg", "exposure": -1.0, "tone_map": "clip"})
    assert made == {"output": {"format": "hlg", "exposure": -1.0, "tone_map": "clip"}}
    assert request_fields({"exposure": 2.0}, {"output": {"format": "exr"}}) == {"output": {"exposure": 2.0}}
    with pytest.raises(RequestError, match="ask for it by --hdr"):
        request_fields({"exposure": 2.0})


def test_a_result_with_light_has_a_folder_of_its_own_and_a_preview(
    stage: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soundstage.cli.results import results

    monkeypatch.chdir(tmp_path)
    plan, clip = planned(stage, output="exr"), done(stage, output="exr").clip
    values: dict[str, Any] = {"output": None, "force": False, "contact_sheet": False}
    for name in ("hdr-footage-1", "hdr-footage-1-2"):
        with results(plan, values, Path()) as named:
            saved = named.save(clip)
        assert saved.path == Path(name) / "frame_%05d.exr"
        assert saved.preview == Path(name) / "preview.mp4"
        assert sorted(p.name for p in Path(name).iterdir())[::9] == ["frame_00000.exr", "preview.mp4"]
    with results(plan, values, Path()):
        pass
    assert not Path("hdr-footage-1-3").exists()
    mov = planned(stage, output="prores4444")
    with results(mov, {**values, "output": Path("a.mov")}, Path()) as named:
        saved = named.save(done(stage, output="prores4444").clip)
    assert saved.preview == Path("a-preview.mp4")
    wrong = results(plan, {**values, "output": Path("a.mp4")}, Path())
    with pytest.raises(ss.MediaError, match=r"a\.mp4, and output\.format exr is written as \.exr"), wrong:
        pass


def test_an_exr_of_one_number_is_a_still(tmp_path: Path) -> None:
    write_exr(tmp_path / "a.exr", np.ones((8, 8, 3), np.float32), curve="linear", hdr=Hdr())
    clip = Clip.open(tmp_path / "a.exr")
    assert clip.linear is not None
    assert clip.linear.shape == (1, 8, 8, 3)
