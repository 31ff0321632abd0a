"""Folders that we write are opened by diffusers, and folders that diffusers writes are opened by us."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from soundstage.library.convert import convert
from soundstage.library.convert_plan import CONNECTOR_PREFIXES
from soundstage.library.model_files import VIDEO_VAE, find_model
from soundstage.model.config import VideoVaeConfig
from soundstage.model.published import video_vae_header
from soundstage.model.video_vae import VideoVae
from soundstage.rendering.parts import ModelParts
from soundstage.weights.configs import published_config, stored_config
from soundstage.weights.diffusers_config import read_diffusers_config, write_diffusers_config
from soundstage.weights.diffusers_names import to_diffusers
from soundstage.weights.header import read_header
from soundstage.weights.layouts import DIFFUSERS_PARTS
from soundstage.weights.load import builder
from tests.tiny_model import save, write_text_encoder, write_tiny_model

COMPONENTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its video VAE has as many latent channels as the encoder's first layer: diffusers knows no other."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    write_text_encoder(folder / "text")
    config = {"vae": video_vae_header(encoder_base_channels=8, decoder_base_channels=16, latent_channels=8)}
    save(folder / VIDEO_VAE, {"vae.": VideoVae(VideoVaeConfig.from_header(config))}, config)
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The tiny model as a diffusers folder of our writing."""
    folder = tmp_path_factory.mktemp("ours")
    convert(tiny, folder, layout="diffusers")
    return folder


def classes() -> dict[str, Any]:
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE

    kinds = (
        LTX2VideoTransformer3DModel,
        LTX2TextConnectors,
        AutoencoderKLLTX2Video,
        AutoencoderKLLTX2Audio,
        LTX2VocoderWithBWE,
    )
    return dict(zip(COMPONENTS, kinds, strict=True))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, ours: Path) -> Path:
    """The same, opened and written again by diffusers, in shards of 200 kB.

    Not so the audio VAE: diffusers' has as many statistics as channels, which a narrow one has not.
    """
    folder = tmp_path_factory.mktemp("theirs")
    for name, kind in classes().items():
        if name == "audio_vae":
            shutil.copytree(ours / name, folder / name)
            continue
        model, report = kind.from_pretrained(ours / name, output_loading_info=True)
        assert not report["missing_keys"], name
        assert not report["unexpected_keys"], name
        assert not report["mismatched_keys"], name
        model.save_pretrained(folder / name, max_shard_size="200kB")
    return folder


def test_diffusers_opens_what_we_write_and_we_open_what_it_writes(tiny: Path, theirs: Path) -> None:
    """Its files carry no config of ours: all comes from its config.json."""
    files = sorted(theirs.rglob("*.safetensors"))
    assert len([path for path in files if path.parent.name == "transformer"]) > 3
    assert {path.parent.name for path in files if "config" in read_header(path).metadata} == {"audio_vae"}
    model = find_model(theirs, text=tiny / "text")
    parts = ModelParts(model, torch.device("cpu"), torch.float32)
    wanted = ModelParts(find_model(tiny), torch.device("cpu"), torch.float32)
    for name in ("transformer", "video_vae", "audio_vae", "vocoder"):
        found, right = getattr(parts, name), getattr(wanted, name)
        assert found.config == right.config, name
        state = right.state_dict()
        assert found.state_dict().keys() == state.keys()
        assert all(torch.equal(found.state_dict()[key], value) for key, value in state.items())


def test_connectors_and_projection_come_back(tiny: Path, theirs: Path) -> None:
    wanted = ModelParts(find_model(tiny), torch.device("cpu"), torch.float32)
    model = find_model(theirs, text=tiny / "text")
    found = ModelParts(
        type(model)(model.name, model.folder, wanted.model.defaults, model.weights, model.text),
        torch.device("cpu"),
        torch.float32,
    )
    one, other = (parts.encode(["a red ball"])[0] for parts in (wanted, found))
    assert torch.equal(one.video, other.video)
    assert torch.equal(one.audio, other.audio)


@pytest.mark.parametrize("component", COMPONENTS)
def test_config_sections_survive_config_json(component: str, ours: Path, tiny: Path) -> None:
    """Every key of ours that their config.json gives back has the value it had."""
    sections = read_diffusers_config(ours / component)
    wanted = stored_config([read_header(path) for path in sorted(tiny.glob("*.safetensors"))])
    ((name, section),) = sections.items()
    assert section
    shared = {key: json.loads(json.dumps(section[key])) for key in section.keys() & wanted[name].keys()}
    assert shared == {key: wanted[name][key] for key in shared}


@pytest.mark.parametrize("component", COMPONENTS)
def test_at_full_size_diffusers_has_the_keys_and_shapes_we_write(component: Any) -> None:
    """Its own classes, built from our config.json on the meta device."""
    config = write_diffusers_config(component, published_config(), 49)
    with torch.device("meta"):
        theirs = classes()[component].from_config(config).state_dict()
    ours = {}
    for part in DIFFUSERS_PARTS[component]:
        with torch.device("meta"):
            state = builder(part, {}, published_config())().state_dict()
        prefix = CONNECTOR_PREFIXES.get(part, "")
        ours |= {prefix + to_diffusers(part, key): value.shape for key, value in state.items()}
    assert ours == {key: value.shape for key, value in theirs.items()}


def test_the_published_model_has_the_published_diffusers_config() -> None:
    """Source: docs/model/checkpoints.md, "diffusers folders"."""
    vae = write_diffusers_config("vae", published_config(), 49)
    assert vae["block_out_channels"] == [256, 512, 1024, 1024]
    assert vae["decoder_block_out_channels"] == [256, 512, 512, 1024]
    assert vae["layers_per_block"] == vae["decoder_layers_per_block"] == [4, 6, 4, 2, 2]
    assert vae["downsample_type"] == ["spatial", "temporal", "spatiotemporal", "spatiotemporal"]
    assert vae["upsample_type"] == ["spatiotemporal", "spatiotemporal", "temporal", "spatial"]
    assert vae["upsample_factor"] == [2, 2, 1, 2]
    connectors = write_diffusers_config("connectors", published_config(), 49)
    assert (connectors["text_proj_in_factor"], connectors["video_hidden_dim"]) == (49, 4096)
    assert (connectors["audio_connector_num_layers"], connectors["audio_hidden_dim"]) == (8, 2048)


def test_an_upsampler_of_a_diffusers_folder_is_read(tmp_path: Path) -> None:
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

    from soundstage.weights.load import load_upsampler

    theirs = LTX2LatentUpsamplerModel(mid_channels=32, num_blocks_per_stage=1, use_rational_resampler=False)
    theirs.save_pretrained(tmp_path / "latent_upsampler")
    path = next((tmp_path / "latent_upsampler").glob("*.safetensors"))
    found = load_upsampler(path, dtype=torch.float32)
    assert (found.config.kind, found.config.scale) == ("space", (2, 1))
    assert all(torch.equal(found.state_dict()[k], v) for k, v in theirs.state_dict().items())
