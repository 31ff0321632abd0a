"""Places, parts and attributes of a pipeline."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import soundstage as ss
from soundstage.compat import diffusers as compat
from soundstage.compat.diffusers.quantizing import weights_of
from soundstage.compat.diffusers.telling import Notices
from soundstage.errors import RequestError


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


def test_parts_bring_what_was_set_on_them(tiny_folder: Path) -> None:
    transformer = compat.AutoModel.from_pretrained(str(tiny_folder), subfolder="transformer")
    transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn)
    made = ss.LTX2Pipeline.from_pretrained(tiny_folder, transformer=transformer, dtype=torch.float32)
    assert made.engine.options["weights"] == "fp8-cast"
    assert made.transformer is transformer
    eight = transformers_config(load_in_8bit=True)
    with pytest.warns(UserWarning, match="becomes weights='int8'"):
        quantized = ss.LTX2Pipeline.from_pretrained(tiny_folder, quantization_config=eight)
    assert quantized.engine.options["weights"] == "int8"
    other = compat.AutoModel.from_pretrained("owner/name", subfolder="transformer")
    with pytest.raises(RequestError, match="transformer is of 'owner/name', the pipeline of"):
        ss.LTX2Pipeline.from_pretrained(tiny_folder, transformer=other)
    with pytest.warns(UserWarning, match="the upsampler of owner/name has no effect"):
        ss.LTX2LatentUpsamplePipeline(made.vae, compat.LTX2LatentUpsamplerModel.from_pretrained("owner/name"))
    with pytest.raises(RequestError, match="quantization_config is 'load_in_4bit true', which"):
        ss.LTX2Pipeline.from_pretrained(
            tiny_folder, quantization_config=transformers_config(load_in_4bit=True)
        )


def transformers_config(**values: bool) -> Any:
    """A config as `BitsAndBytesConfig` has it."""
    return type("BitsAndBytesConfig", (), values)()


def test_pipelines_are_made_of_the_components_of_another(pipe: ss.LTXVideoPipeline, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    pipe.load_lora_weights(tmp_path, adapter_name="a")
    made = ss.LTX2ImageToVideoPipeline(**pipe.components)
    assert made.engine is pipe.engine
    assert made.get_active_adapters() == ["a"]
    assert pipe.vae.pipeline is pipe
    assert ss.LTX2Pipeline.from_pipe(pipe, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert pipe.dtype == torch.float32
    asks: tuple[tuple[Any, str], ...] = (
        (ss.LTX2Pipeline, "of an Engine or of another pipeline's components, not of None"),
        (lambda: ss.LTX2Pipeline.from_pipe("nano"), "from_pipe takes a pipeline, not 'nano'"),  # type: ignore[arg-type]
        (lambda: ss.LTX2Pipeline.from_pipe(pipe, unet=1), "'unet' is not a word of LTX2Pipeline"),
    )
    for ask, says in asks:
        with pytest.raises(RequestError, match=says):
            ask()


def test_pipelines_and_parts_show_what_they_are(pipe: ss.LTXVideoPipeline) -> None:
    assert repr(pipe) == "<LTXVideoPipeline of 'tiny', torch.float32 on cpu>"
    assert repr(pipe.vae) == "<vae of LTXVideoPipeline>"
    with pytest.raises(AttributeError, match=r"'enable_vae_tilin' .* did you mean enable_vae_tiling"):
        pipe.enable_vae_tilin()


def test_groups_of_a_part_are_placed_as_those_of_the_pipeline(pipe: ss.LTXVideoPipeline) -> None:
    with pytest.warns(UserWarning, match="offloading has no effect: the model runs on the CPU"):
        pipe.transformer.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert pipe.engine.options["residency"] == "auto"
    with pytest.raises(RequestError, match="offload_type is 'leaf'; give 'block_level' or 'leaf_level'"):
        pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf")
    with pytest.raises(RequestError, match="the module is None; give a part of a pipeline"):
        compat.apply_group_offloading(None)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="dtype is 'int8'"):
        pipe.to(torch.int8)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (compat.BitsAndBytesConfig(load_in_8bit=True), "int8"),
        (compat.TorchAoConfig("float8wo"), "fp8-cast"),
        (compat.QuantoConfig(weights_dtype="int8"), "int8"),
        (compat.GGUFQuantizationConfig(), None),
        (
            compat.PipelineQuantizationConfig(quant_mapping={"transformer": compat.TorchAoConfig("int8wo")}),
            "int8",
        ),
        (
            compat.PipelineQuantizationConfig(
                quant_backend="bitsandbytes_8bit", quant_kwargs={"load_in_8bit": True}
            ),
            "int8",
        ),
    ],
)
def test_quantization_configs_become_weights(config: Any, weights: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert weights_of(config, Notices()) == weights
