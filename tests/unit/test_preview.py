"""Previews: the tiny VAE's structure and names, its recipe, and the map that needs no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from soundstage.conditioning.pixels import to_uint8
from soundstage.errors import WeightsError
from soundstage.library.identify import scan
from soundstage.model.preview import LinearPreview, TinyDecoder, TinyVaeConfig
from soundstage.nano.training import preview as recipe
from soundstage.training.batches import Batch
from soundstage.weights.load import load_preview
from tests.unit.test_decode_pieces import tiny_vae

SMALL = TinyVaeConfig(latent_channels=4, widths=(8, 6, 4, 4), patch=2)


def small_decoder() -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(SMALL).eval().requires_grad_(False)


def test_the_published_decoder_has_its_names_and_shapes() -> None:
    with torch.device("meta"):
        state = TinyDecoder(TinyVaeConfig()).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["decoder.1.weight"] == (256, 128, 3, 3)
    assert shapes["decoder.3.conv.0.weight"] == (256, 512, 3, 3)
    assert shapes["decoder.7.conv.weight"] == (512, 256, 1, 1)
    assert shapes["decoder.8.weight"] == (128, 256, 3, 3)
    assert "decoder.8.bias" not in shapes
    assert shapes["decoder.17.conv.4.bias"] == (64,)
    assert shapes["decoder.22.weight"] == (48, 64, 3, 3)
    assert TinyVaeConfig.from_shapes(shapes) == TinyVaeConfig()


def oracle(decoder: TinyDecoder, latents: Tensor) -> Tensor:
    """The same network one frame at a time, with the memory written out."""
    layers = decoder.decoder
    memory: dict[int, Tensor] = {}

    def run(x: Tensor, start: int) -> list[Tensor]:
        for i in range(start, len(layers)):
            layer = layers[i]
            name = type(layer).__name__
            if name == "MemoryBlock":
                before = memory.get(i, torch.zeros_like(x))
                memory[i] = x
                x = F.relu(x + layer.conv(torch.cat([x, before], dim=1)))
            elif name == "GrowTime":
                return [out for half in layer.conv(x).chunk(2, dim=1) for out in run(half, i + 1)]
            else:
                x = layer(x)
        return [F.pixel_shuffle(x, decoder.config.patch)]

    frames = [frame for t in range(latents.shape[2]) for frame in run(latents[:, :, t], 0)]
    return torch.stack(frames[7:], dim=2)


def test_all_frames_at_once_are_those_of_one_after_the_other() -> None:
    decoder = small_decoder()
    latents = 2 * torch.randn(2, 4, 3, 2, 3, generator=torch.Generator().manual_seed(1))
    made = decoder(latents)
    assert made.shape == (2, 3, 17, 32, 48)
    torch.testing.assert_close(made, oracle(decoder, latents), rtol=0, atol=1e-6)


def test_files_in_published_spellings_load(tmp_path: Path) -> None:
    """With an encoder beside the decoder and a family's prefix; the header tells what it is."""
    decoder = small_decoder()
    state = {f"taehv.{name}": value for name, value in decoder.state_dict().items()}
    save_file({**state, "taehv.encoder.0.weight": torch.zeros(2)}, tmp_path / "tae.safetensors")
    (description,) = scan(tmp_path / "tae.safetensors")
    assert description.kind == "preview VAE"
    loaded = load_preview(tmp_path / "tae.safetensors")
    assert loaded.config == SMALL
    latents = torch.randn(1, 4, 2, 2, 2)
    assert torch.equal(loaded(latents), decoder(latents))
    pixels = loaded.decode(latents.bfloat16())
    assert pixels.shape == (1, 3, 9, 32, 32)
    assert -1 <= float(pixels.min()) <= float(pixels.max()) <= 1
    assert to_uint8(pixels).shape == (9, 32, 32, 3)


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    save_file({"decoder.1.weight": torch.zeros(3)}, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match="not laid out as taeltx2_3"):
        load_preview(tmp_path / "wide.safetensors")


def test_a_linear_decoder_is_found_exactly() -> None:
    """Of a decoder that gives each cell a linear map of its latent, the fit is that map, place by place."""
    generator = torch.Generator().manual_seed(3)
    wanted = 0.02 * torch.randn(48, 8, generator=generator)

    vae = tiny_vae().float()

    def decode(latents: Tensor) -> Tensor:
        patches = torch.einsum("oc,bcthw->bothw", wanted, latents)
        small = patches.unflatten(1, (3, 4, 4)).permute(0, 1, 4, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4)
        return F.interpolate(small, scale_factor=(1, 8, 8), mode="nearest")

    vae.decode = decode  # type: ignore[method-assign]
    preview = LinearPreview.fitted(vae)
    latents = torch.randn(1, 8, 3, 2, 4, generator=generator)
    pixels = preview.decode(latents)
    assert pixels.shape == (1, 3, 3, 8, 16)
    wanted_pixels = F.avg_pool2d(decode(latents)[0].transpose(0, 1), 8).transpose(0, 1)[None]
    torch.testing.assert_close(pixels, wanted_pixels, rtol=0, atol=1e-5)


def shards() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shade = torch.rand(6, 1, 4, 1, 1, generator=generator)
    latents = (2 * shade - 1).expand(-1, 128, -1, 2, 2)
    frames = torch.cat([shade[:, :, :1], shade[:, :, 1:].repeat_interleave(8, dim=2)], dim=2)
    small = (255 * frames).expand(-1, 3, -1, 16, 16).to(torch.uint8)
    return [{"video": latents.bfloat16(), "small": small.contiguous()}]


def window_of(step: int) -> Batch:
    (rows,) = shards()
    return Batch("x", recipe.window(np.random.default_rng(step), rows["video"], rows["small"]), 6)


def test_a_few_steps_of_the_recipe_lower_its_loss(tmp_path: Path) -> None:
    """On clips whose brightness is their latents'; what is exported reads back."""
    torch.manual_seed(0)
    decoder = recipe.build()
    loss = recipe.PreviewLoss(decoder)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    history = []
    for step in range(14):
        losses = loss(window_of(step))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses["loss"].detach()))
    assert np.mean(history[-3:]) < 0.7 * np.mean(history[:3])
    recipe.finish(decoder, tmp_path)
    loaded = load_preview(tmp_path / "preview.safetensors")
    latents = shards()[0]["video"][:1].float()
    assert loaded.config == recipe.CONFIG
    assert (loaded(latents) - decoder(latents)).abs().max() < 0.05
    assert (tmp_path / "preview.safetensors").stat().st_size < 1_200_000


def test_a_window_of_the_recipe_shows_its_own_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder's last frame of a latent is compared with that latent's last frame."""

    class Shade(torch.nn.Module):
        def forward(self, latents: Tensor) -> Tensor:
            brightness = (latents[:, :1] + 1) / 2
            frames = torch.cat(
                [brightness[:, :, :1], brightness[:, :, 1:].repeat_interleave(8, dim=2)], dim=2
            )
            return frames[..., :1, :1].expand(-1, 3, -1, 16, 16)

    loss = recipe.PreviewLoss(Shade())  # type: ignore[arg-type]
    monkeypatch.setattr(recipe, "NOISED_SHARE", 0.0)
    for step in range(6):
        assert float(loss(window_of(step))["loss"]) < 0.01
