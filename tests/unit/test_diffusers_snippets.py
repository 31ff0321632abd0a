"""Snippets for diffusers run on nano with other imports: its own examples, and docs/diffusers.md."""

from __future__ import annotations

import functools
import importlib
import shutil
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

import soundstage as ss
from soundstage.compat import diffusers as compat
from soundstage.compat.diffusers import media
from soundstage.errors import MediaError, RequestError
from soundstage.library.model_files import SHIPPED_MODELS
from tests.examples import blocks, write_inputs
from tests.published import COMMIT, made_small, put_nano_in_hub, with_our_imports

# Modules of diffusers whose docstrings have an example, with what is mended in it.
EXAMPLES: dict[str, tuple[str, str]] = {
    "ltx2.pipeline_ltx2": ("", ""),
    "ltx2.pipeline_ltx2_image2video": ("", ""),
    # Its last lines use a sound that it did not keep, and write bytes.
    "ltx2.pipeline_ltx2_condition": ("video = pipe(", "video, audio = pipe("),
    "ltx2.pipeline_ltx2_ic_lora": ("", ""),
    "ltx2.pipeline_ltx2_latent_upsample": ("", ""),
    "ltx.pipeline_ltx": ("", ""),
    "ltx.pipeline_ltx_image2video": ("", ""),
    "ltx.pipeline_ltx_condition": ("", ""),
}
THEIRS = diffusers.LTX2LatentUpsamplePipeline.tone_map_latents
DOCS = [block for block in blocks() if block.page == "docs/diffusers.md"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_inputs(folder)
    return folder


@pytest.fixture
def work(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that snippets name, nano in the hub's cache, and files at every address."""
    put_nano_in_hub(tmp_path / "hub", monkeypatch)
    folder = tmp_path / "work"
    shutil.copytree(originals, folder, symlinks=True)
    monkeypatch.chdir(folder)

    def fetched(address: str) -> bytes:
        return (folder / ("ball.mp4" if address.endswith(".mp4") else "ball.png")).read_bytes()

    monkeypatch.setattr(media, "_fetched", fetched)
    return folder


def run(text: str, where: str, names: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices of words without effect
        exec(compile(made_small(text), where, "exec"), names)


@pytest.mark.parametrize("module", EXAMPLES)
def test_an_example_of_diffusers_runs_with_other_imports(module: str, work: Path) -> None:
    told = importlib.import_module(f"diffusers.pipelines.{module}").EXAMPLE_DOC_STRING
    lines = [line.strip()[4:] for line in told.splitlines() if line.strip().startswith((">>>", "..."))]
    text = with_our_imports("\n".join(lines)).replace(*EXAMPLES[module])
    assert "soundstage" in text
    before = set(work.iterdir())
    run(text, module, {})
    made = {path.suffix for path in set(work.iterdir()) - before}
    assert made == {".mp4"}


def test_the_blocks_of_the_page_run(work: Path) -> None:
    names: dict[str, Any] = {}
    for block in DOCS:
        run(block.text, block.where, names)
    assert len(DOCS) == 4
    assert {"two-stages.mp4", "picture.mp4", "with-sound.mp4"} <= {path.name for path in work.iterdir()}
    assert names["output"].frames.shape[:3] == (2, 9, 3)


def test_upsampled_latents_are_those_of_the_models_upsampler(work: Path) -> None:
    pipe = ss.LTX2Pipeline.from_pretrained("Lightricks/LTX-2.3", torch_dtype=torch.float32)
    latents = pipe(
        "A red ball.", width=64, height=64, num_frames=9, num_inference_steps=1, output_type="latent"
    ).frames
    upsampler = compat.LTX2LatentUpsamplerModel.from_pretrained(
        "Lightricks/LTX-2.3", subfolder="latent_upsampler"
    )
    upsample = ss.LTX2LatentUpsamplePipeline(vae=pipe.vae, latent_upsampler=upsampler)
    made = upsample(latents=latents, output_type="latent").frames
    built = pipe.engine._renderer.built  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(made, built.upsample("space-x2", latents))  # type: ignore[union-attr]
    moved = upsample(latents=latents, adain_factor=1.0, output_type="latent", return_dict=False)[0]
    assert torch.allclose(moved.mean((2, 3, 4)), latents.mean((2, 3, 4)), atol=1e-4)
    pressed = upsample(latents=latents, tone_map_compression_ratio=0.6, output_type="latent").frames
    assert torch.allclose(pressed, THEIRS(None, made, 0.6), atol=1e-5)
    pictures = [Image.new("RGB", (70, 50), "red")] * 9
    assert upsample(video=pictures, output_type="np").frames.shape == (1, 9, 128, 128, 3)
    assert upsample(pictures, 32, 64, output_type="np").frames.shape == (1, 9, 64, 128, 3)
    assert upsample.components["vae"] is pipe.vae
    upsample.set_progress_bar_config(disable=True)
    assert upsample(latents=latents, output_type="np").frames.shape == (1, 9, 128, 128, 3)
    for words, says in (
        ({}, "give either latents or video"),
        (
            {"latents": latents, "tone_map_compression_ratio": 2},
            "tone_map_compression_ratio is 2; give 0 to 1",
        ),
        ({"latents": latents, "output_type": "gif"}, "output_type is 'gif'"),
    ):
        with pytest.raises(RequestError, match=says):
            upsample(**words)


def test_repositories_are_found_or_told_how_to_get(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nano = SHIPPED_MODELS["nano"].resolve()
    pipe = ss.LTX2Pipeline.from_pretrained("diffusers/LTX-2.3-Diffusers")
    assert pipe.engine.model.name == "nano"
    pipe.load_lora_weights(
        "Lightricks/LTX-2", weight_name="ltx-2-19b-distilled-lora-384.safetensors", adapter_name="distilled"
    )
    assert pipe._loras["distilled"].path.endswith(f"{COMMIT}/ltx-2-19b-distilled-lora-384.safetensors")
    assert Path(pipe._loras["distilled"].path).resolve().parent == nano
    monkeypatch.setenv("HF_HUB_CACHE", str(work / "empty"))
    monkeypatch.setenv("XDG_DATA_HOME", str(work / "empty"))
    for name, says in (
        (
            "Lightricks/LTX-2.3",
            "'Lightricks/LTX-2.3' is 'ltx-2.3-dev' here: .*soundstage models pull ltx-2.3-dev",
        ),
        ("Lightricks/LTX-2", "`hf download Lightricks/LTX-2` fetches it"),
        ("nono", "which is neither a folder, a file nor a known model"),
    ):
        with pytest.raises(RequestError, match=says):
            ss.LTX2Pipeline.from_pretrained(name)
    with pytest.raises(
        RequestError, match=r"`soundstage models pull ltx-2.3-22b-distilled-lora-384-1.1` fetches it"
    ):
        pipe.load_lora_weights(
            "Lightricks/LTX-2.3", weight_name="ltx-2.3-22b-distilled-lora-384-1.1.safetensors"
        )


def test_films_written_by_diffusers_helpers_are_read_back(work: Path) -> None:
    frames, fps = compat.load_video("ball.mp4", return_fps=True)
    assert (len(frames), fps, frames[0].size) == (49, 24.0, (64, 64))
    assert compat.export_to_video(frames[:9], "some.mp4", fps=12, quality=8) == "some.mp4"
    assert len(compat.load_video("some.mp4", convert_method=lambda found: found[:3])) == 3
    assert Path(compat.export_to_video(frames[:2])).suffix == ".mp4"
    assert Path(compat.export_to_gif(frames[:2])).suffix == ".gif"
    sound = torch.zeros(2, 24_000)
    compat.encode_video(torch.zeros(9, 64, 64, 3, dtype=torch.uint8), 24, "sound.mp4", sound, 48_000)
    compat.encode_video(iter([torch.zeros(4, 64, 64, 3), torch.zeros(5, 64, 64, 3)]), 24, "pieces.mp4")
    assert len(compat.load_video("pieces.mp4")) == 9
    assert compat.load_image("door.png", lambda picture: picture.resize((8, 8))).size == (8, 8)
    for wrong, says in (
        (lambda: compat.load_image("none.png"), "none.png"),
        (lambda: compat.load_video("beat.wav"), "beat.wav holds no picture"),
        (lambda: compat.export_to_video([], "a.mp4"), "there are no frames"),
        (lambda: compat.load_image(3), "the picture is 3; give a file, an address or a PIL picture"),
        (lambda: compat.export_to_video(None, "a.mp4"), "the frames are None; give pictures or an array"),
        (lambda: compat.export_to_video(frames, "a.mp4", fps=0), "fps is 0; give the frames a second"),
        (lambda: compat.encode_video(frames, 24, None), "the file is None; give its name"),  # type: ignore[arg-type]
        (lambda: compat.load_video([1]), r"the file is \[1\]; give its name"),  # type: ignore[arg-type]
        (lambda: compat.encode_video(frames, 24, "a.mp4", "x"), "the sound is 'x'"),
        (lambda: compat.encode_video(frames, 24, "a.mp4", torch.zeros(3, 9, 2)), "the sound is an array"),
    ):
        with pytest.raises(MediaError, match=says):
            wrong()


def test_a_picture_at_an_address_is_fetched(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = functools.partial(QuietHandler, directory=str(originals))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert compat.load_image(f"{address}/door.png?download=true").size == (64, 64)
        assert len(compat.load_video(f"{address}/ball.mp4")) == 49
        with pytest.raises(MediaError, match=r"/none.png cannot be fetched \(HTTP Error 404"):
            compat.load_image(f"{address}/none.png")
        monkeypatch.setattr(media, "MAX_DOWNLOAD_BYTES", 9)
        with pytest.raises(MediaError, match="is larger than"):
            compat.load_image(f"{address}/door.png")
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *values: Any) -> None:
        """Print nothing."""
