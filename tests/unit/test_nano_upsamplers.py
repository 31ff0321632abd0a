"""Nano's optional parts: pairs that show the same shot twice, recipes that learn, files that load."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from soundstage.errors import WeightsError
from soundstage.library.identify import scan
from soundstage.library.model_files import EXTRAS, SHIPPED_MODELS
from soundstage.model.upsampler import upsample_latents
from soundstage.model.video_vae import VideoVae
from soundstage.nano.training import latents, preview, upsamplers
from soundstage.nano.training.install import OPTIONAL, install
from soundstage.nano.training.parts import PARTS
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import FPS, Scene, is_held_out
from soundstage.training.batches import Batch
from soundstage.weights.configs import stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.load import builder, load_part, load_upsampler
from tests.unit.test_decode_pieces import tiny_vae

KINDS = list(upsamplers.PARTS.items())
FACTORS = {"x2": 2.0, "x1.5": 1.5, "time": 1.0}


def small_scene(kind: upsamplers.UpsamplerName, number: int) -> Scene:
    shape = latents.shape_of(number, upsamplers.MIXES[kind])
    return latents.draw_scenes(upsamplers.KEYS[kind], number, shape, 1)[0]


@pytest.mark.parametrize("kind", upsamplers.MIXES)
def test_both_sides_of_a_pair_are_one_shot(kind: upsamplers.UpsamplerName) -> None:
    """Its first frame, averaged to the small size, is the small first frame; no scene is held out."""
    assert sum(share for *_, share in upsamplers.MIXES[kind]) == pytest.approx(1)
    for number in range(12):
        scene = small_scene(kind, number)
        assert not any(is_held_out(subject) for subject in scene.subjects)
        target = upsamplers.enlarged(kind, scene)
        shape, larger = scene.shape, target.shape
        assert (larger.width, larger.height) == (shape.width * FACTORS[kind], shape.height * FACTORS[kind])
        assert larger.num_frames == (2 * shape.num_frames - 1 if kind == "time" else shape.num_frames)
        assert target.fps == (2 * FPS if kind == "time" else FPS)
    small = render(scene, simulate(scene), range(1))[0].astype(float)
    large = render(target, simulate(target), range(1))[0].astype(float)
    means = [
        image.reshape(2, image.shape[0] // 2, 2, image.shape[1] // 2, 3).mean((1, 3))
        for image in (small, large)
    ]
    assert np.abs(means[0] - means[1]).max() < 6  # of 255


def test_the_slow_side_of_a_pair_is_every_second_frame() -> None:
    """A render at the usual rate is the same: what the transformer makes at 24 frames a second."""
    scene = small_scene("time", 4)
    fast = upsamplers.enlarged("time", scene)
    twice = render(fast, simulate(fast), range(0, 17, 2))
    plain = render(scene, simulate(scene), range(9))
    assert np.abs(twice.astype(int) - plain.astype(int)).mean() < 2  # of 255


class Picker:
    """Stands for the video VAE: a latent is its cell's first pixel, 128 times."""

    per_channel_statistics = tiny_vae().per_channel_statistics

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels[:, :1, ::8, ::32, ::32].expand(-1, 128, -1, -1, -1)


@pytest.mark.parametrize("kind", upsamplers.MIXES)
def test_pairs_have_the_upsamplers_shapes(kind: upsamplers.UpsamplerName) -> None:
    make = upsamplers.PairMaker(kind, Path("weights"), upsamplers.MIXES[kind], 1, encode=False)
    pair = upsamplers.encoded_pairs(make(0, 0.0), Picker(), None)  # type: ignore[arg-type]
    upsampler = upsamplers.build(kind)
    made = upsampler(pair["low"].float())
    assert made.shape == pair["high"].shape
    assert pair["low"].dtype == torch.bfloat16


@pytest.mark.parametrize(("part", "kind"), KINDS)
def test_a_few_steps_lower_the_loss_and_the_file_reads_back(
    part: str, kind: upsamplers.UpsamplerName, tmp_path: Path
) -> None:
    """On latents that are the small ones repeated."""
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(4, 128, 3, 2, 2, generator=generator)
    if kind == "time":
        high = low.repeat_interleave(2, dim=2)[:, :, 1:]
    else:
        high = nn.functional.interpolate(low, scale_factor=(1, FACTORS[kind], FACTORS[kind]), mode="nearest")
    vae = nano_vae()
    upsampler = upsamplers.build(kind)
    loss = upsamplers.UpsamplerLoss(upsampler, vae, torch.device("cpu"))
    optimizer = torch.optim.AdamW(upsampler.parameters(), lr=2e-3)
    history = []
    for step in range(8):
        cells = upsamplers.decoded_cells(np.random.default_rng(step), high)
        losses = loss(Batch("x", {"low": low, "high": high} | cells, 4))
        optimizer.zero_grad()
        losses["loss"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in upsampler.parameters())
        optimizer.step()
        history.append(float(losses["loss"].detach()))
    assert history[-1] < 0.9 * history[0]

    upsamplers.finish(kind, part, upsampler, tmp_path)
    (description,) = scan(tmp_path / f"{part}.safetensors")
    assert description.kind == "upsampler"
    loaded = load_upsampler(tmp_path / f"{part}.safetensors", dtype=torch.float32)
    with torch.no_grad():
        made = upsample_latents(low, loaded, vae.per_channel_statistics)
        wanted = upsample_latents(low, upsampler, vae.per_channel_statistics)
    assert (made - wanted).norm() < 0.03 * wanted.norm()


@cache
def nano_vae() -> VideoVae:
    """The shipped one: a decoder of random weights has slopes that overflow bfloat16."""
    files = [read_header(SHIPPED_MODELS["nano"] / "video_vae.safetensors")]
    parts = find_parts(files)
    build = builder("video_vae", parts, stored_config(files))
    vae = load_part(build, parts, "video_vae", dtype=torch.float32)
    assert isinstance(vae, VideoVae)
    return vae


def test_the_optional_parts_of_nano_are_small() -> None:
    """8 MB in bfloat16, upsamplers and preview together."""
    builds = [partial(upsamplers.build, kind) for kind in upsamplers.MIXES]
    values = sum(
        value.numel() for build in (*builds, preview.build) for value in build().state_dict().values()
    )
    assert 2 * values < 8e6


def test_install_takes_the_optional_parts_there_are(tmp_path: Path) -> None:
    """None is needed; each lands under the name a model folder has it by."""
    assert set(OPTIONAL) == {name for name, _ in EXTRAS.values()}
    assert set(OPTIONAL.values()) <= set(PARTS)
    weights, target = tmp_path / "weights", tmp_path / "model"
    (weights / "text").mkdir(parents=True)
    (weights / "text" / "model.safetensors").write_bytes(b"text")
    with pytest.raises(WeightsError, match="not trained yet: transformer, video-vae, audio-vae, vocoder;"):
        install(weights, target)
    from soundstage.nano.training.export import write

    for part in ("transformer", "video-vae", "audio-vae", "vocoder"):
        write({f"{part}.weight": torch.zeros(2)}, {part: {}}, weights / f"{part}.safetensors")
    plain = {path.name for path in install(weights, target)}
    assert not plain & set(OPTIONAL)
    upsamplers.finish("x1.5", "spatial-x1.5", upsamplers.build("x1.5"), weights)
    assert {path.name for path in install(weights, target)} - plain == {"spatial_x1_5.safetensors"}
    assert load_upsampler(target / "spatial_x1_5.safetensors").config.scale == (3, 2)
