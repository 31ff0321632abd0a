"""Every published file of LTX-2.3 and its text encoder: what it is, where it comes from, how large it is.

Plain data. `FILES` holds single downloads; `MODELS` names the sets of them that make a working model, so that
`soundstage models pull ltx-2.3-distilled` and `soundstage generate --model ltx-2.3-distilled` mean the same.

Sizes are bytes. Exact ones are published; the others are rounded, and a pull learns the true size from the
hub before it begins. Source: docs/model/checkpoints.md, "Published files".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Literal

from soundstage.errors import RequestError, near_first, nearest

FileKind = Literal["model", "part", "text encoder", "upscaler", "lora"]

LTX_LICENCE = "LTX-2 Community"
GEMMA_LICENCE = "Gemma Terms"
LICENCE_PAGES = {
    LTX_LICENCE: "https://github.com/Lightricks/LTX-2/blob/main/LICENSE-2",
    GEMMA_LICENCE: "https://ai.google.dev/gemma/terms",
}


@dataclass(frozen=True)
class CatalogFile:
    """One published file, or one folder of them.

    path: within the repository; a pattern with * where there are several files or the name is not known.
    num_bytes: size of all files, 0 if not published. exact: num_bytes is exact. dtype: format of most
    weights. gated: the hub wants its licence accepted first. runs: whether Soundstage loads it, as far as is
    known.
    """

    name: str
    kind: FileKind
    repository: str
    path: str
    num_bytes: int
    holds: str
    dtype: str
    purpose: str
    exact: bool = False
    gated: bool = False
    licence: str = LTX_LICENCE
    runs: bool = True

    @property
    def is_folder(self) -> bool:
        """Return whether it is several files; they are pulled and found together."""
        return self.path == "*"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "num_bytes": self.num_bytes or None}

    def matches(self, path: str) -> bool:
        """Return whether a file of the repository belongs to it."""
        if self.is_folder:
            return PurePosixPath(path).suffix in (".safetensors", ".json", ".model", ".jinja")
        return fnmatchcase(path, self.path)


WHOLE = "transformer, connectors, text projection, VAEs, vocoder"
SPLIT = "transformer, connectors"

_OFFICIAL = "Lightricks/LTX-2.3"
_KIJAI = "Kijai/LTX2.3_comfy"
_GEMMA = "google/gemma-3-12b-it-qat-q4_0-unquantized"


def _official(
    stem: str, kind: FileKind, num_bytes: int, holds: str, purpose: str, *, exact: bool
) -> CatalogFile:
    return CatalogFile(
        stem, kind, _OFFICIAL, f"{stem}.safetensors", num_bytes, holds, "BF16", purpose, exact=exact
    )


def _split(stem: str, kind: FileKind, folder: str, gigabytes: float, holds: str, purpose: str) -> CatalogFile:
    """Return one of the files that ComfyUI users have."""
    dtype = next((d for mark, d in _SPLIT_DTYPES.items() if mark in stem), "BF16")
    return CatalogFile(
        stem,
        kind,
        _KIJAI,
        f"{folder}/{stem}.safetensors",
        round(gigabytes * 1e9),
        holds,
        dtype,
        purpose,
        runs=dtype != "MXFP8",
    )


_SPLIT_DTYPES = {"mxfp8": "MXFP8", "fp8": "FP8"}


def _transformers() -> tuple[CatalogFile, ...]:
    """Return the transformer alone, by Kijai: three models in six storage forms."""
    forms = {
        "bf16": (42.0, "as published"),
        "fp8_scaled": (24.0, "half the size, one scale per weight"),
        "fp8_input_scaled": (25.0, "FP8 with scales for FP8 products"),
        "fp8_input_scaled_v2": (25.0, "FP8 with scales for FP8 products, second version"),
        "fp8_input_scaled_v3": (25.0, "FP8 with scales for FP8 products, third version"),
        "mxfp8_block32": (25.0, "FP8 with a scale per 32 values; not read yet"),
    }
    models = {"dev": "guided", "distilled": "8 steps, first version", "distilled-1.1": "8 steps"}
    return tuple(
        _split(
            f"ltx-2.3-22b-{model}_transformer_only_{form}",
            "part",
            "diffusion_models",
            gigabytes,
            SPLIT,
            f"{steps}; {what}",
        )
        for model, steps in models.items()
        for form, (gigabytes, what) in forms.items()
    )


def _gguf(repository: str, stem: str, dtype: str, num_bytes: int, *, name: str | None = None) -> CatalogFile:
    return CatalogFile(
        name or PurePosixPath(stem).name,
        "part",
        repository,
        f"{stem}.gguf",
        num_bytes,
        "transformer",
        dtype,
        "8 steps; needs the gguf extra",
        exact=num_bytes == 22_755_540_000,
    )


def _first_generation(name: str, kind: str, num_bytes: int, purpose: str) -> CatalogFile:
    """LoRAs made for LTX-2.0 that also work on 2.3."""
    stem = f"ltx-2-19b-{kind}-{name}".lower()
    return CatalogFile(
        stem,
        "lora",
        f"Lightricks/LTX-2-19b-{kind}-{name}",
        f"{stem}.safetensors",
        num_bytes,
        "LoRA for 2.0",
        "BF16",
        purpose,
        exact=True,
    )


def _ic_lora(name: str, tag: str, num_bytes: int, purpose: str, *, gated: bool = False) -> CatalogFile:
    """Return the entry of an in-context LoRA by Lightricks. tag: the file name's end, * if unknown."""
    stem = f"ltx-2.3-22b-ic-lora-{name.lower()}"
    return CatalogFile(
        f"{stem}-{tag.removesuffix('-0.9')}" if tag.startswith("x") else stem,
        "lora",
        f"Lightricks/LTX-2.3-22b-IC-LoRA-{name}",
        f"{stem}-{tag}.safetensors" if tag != "*" else "*.safetensors",
        num_bytes,
        "IC-LoRA",
        "BF16",
        purpose,
        exact=num_bytes > 0,
        gated=gated,
    )


FILES: tuple[CatalogFile, ...] = (
    _official(
        "ltx-2.3-22b-distilled-1.1",
        "model",
        46_149_345_334,
        WHOLE,
        "8 steps, the current one",
        exact=True,
    ),
    _official("ltx-2.3-22b-dev", "model", 46_149_344_974, WHOLE, "guided, 30 to 40 steps", exact=True),
    _official("ltx-2.3-22b-distilled", "model", 46_150_000_000, WHOLE, "8 steps, first version", exact=False),
    _official(
        "ltx-2.3-22b-distilled-lora-384-1.1",
        "lora",
        7_605_507_256,
        "LoRA, rank 384",
        "makes dev run in few steps",
        exact=True,
    ),
    _official(
        "ltx-2.3-22b-distilled-lora-384",
        "lora",
        7_600_000_000,
        "LoRA, rank 384",
        "the same, first version",
        exact=False,
    ),
    _official(
        "ltx-2.3-spatial-upscaler-x2-1.1",
        "upscaler",
        995_743_560,
        "latent upsampler",
        "twice the size",
        exact=True,
    ),
    _official(
        "ltx-2.3-spatial-upscaler-x2-1.0",
        "upscaler",
        995_700_000,
        "latent upsampler",
        "twice the size, first version",
        exact=False,
    ),
    _official(
        "ltx-2.3-spatial-upscaler-x1.5-1.0",
        "upscaler",
        1_090_125_794,
        "latent upsampler",
        "one and a half times the size",
        exact=True,
    ),
    _official(
        "ltx-2.3-temporal-upscaler-x2-1.0",
        "upscaler",
        261_944_000,
        "latent upsampler",
        "twice the frames",
        exact=True,
    ),
    CatalogFile(
        "ltx-2.3-22b-dev-fp8",
        "model",
        "Lightricks/LTX-2.3-fp8",
        "ltx-2.3-22b-dev-fp8.safetensors",
        29_130_000_000,
        WHOLE,
        "FP8",
        "guided, for smaller cards",
    ),
    CatalogFile(
        "ltx-2.3-22b-distilled-fp8",
        "model",
        "Lightricks/LTX-2.3-fp8",
        "ltx-2.3-22b-distilled-fp8.safetensors",
        29_520_000_000,
        WHOLE,
        "FP8",
        "8 steps, for smaller cards",
    ),
    CatalogFile(
        "ltx-2.3-22b-dev-nvfp4",
        "model",
        "Lightricks/LTX-2.3-nvfp4",
        "ltx-2.3-22b-dev-nvfp4.safetensors",
        21_700_000_000,
        WHOLE,
        "NVFP4",
        "guided; 4-bit, not read yet",
        runs=False,
    ),
    CatalogFile(
        "gemma-3-12b",
        "text encoder",
        _GEMMA,
        "*",
        24_450_000_000,
        "Gemma 3 12B, its vision tower and tokenizer",
        "BF16",
        "reads prompts",
        gated=True,
        licence=GEMMA_LICENCE,
    ),
    CatalogFile(
        "gemma_3_12B_it",
        "text encoder",
        "Comfy-Org/ltx-2",
        "split_files/text_encoders/gemma_3_12B_it.safetensors",
        24_400_000_000,
        "Gemma 3 12B with its tokenizer",
        "BF16",
        "reads prompts; one file",
        licence=GEMMA_LICENCE,
    ),
    CatalogFile(
        "gemma_3_12B_it_fp8_scaled",
        "text encoder",
        "Comfy-Org/ltx-2",
        "split_files/text_encoders/gemma_3_12B_it_fp8_scaled.safetensors",
        13_200_000_000,
        "Gemma 3 12B with its tokenizer",
        "FP8",
        "reads prompts; one file, half the size",
        licence=GEMMA_LICENCE,
    ),
    CatalogFile(
        "gemma_3_12B_it_fp4_mixed",
        "text encoder",
        "Comfy-Org/ltx-2",
        "split_files/text_encoders/gemma_3_12B_it_fp4_mixed.safetensors",
        9_400_000_000,
        "Gemma 3 12B with its tokenizer",
        "NVFP4",
        "4-bit, not read yet",
        licence=GEMMA_LICENCE,
        runs=False,
    ),
    *_transformers(),
    _split(
        "ltx-2.3_text_projection_bf16",
        "part",
        "text_encoders",
        2.31,
        "text projection",
        "goes with a split transformer",
    ),
    _split("LTX23_video_vae_bf16", "part", "vae", 1.45, "video VAE", "goes with a split transformer"),
    _split(
        "LTX23_audio_vae_bf16", "part", "vae", 0.36, "audio VAE, vocoder", "goes with a split transformer"
    ),
    _split("LTX2.3_video_vae_bf16_KJ", "part", "vae", 1.45, "video VAE", "another copy of the video VAE"),
    _split("taeltx2_3", "part", "vae", 0, "tiny video VAE", "quick previews"),
    _split(
        "ltx-2.3-22b-distilled-lora-dynamic_fro09_avg_rank_105_bf16",
        "lora",
        "loras",
        0,
        "LoRA, ranks by layer",
        "the distilled LoRA, made smaller",
    ),
    CatalogFile(
        "ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16",
        "lora",
        "Comfy-Org/ltx-2.3",
        "split_files/loras/ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors",
        2_700_000_000,
        "LoRA, ranks by layer",
        "BF16",
        "the distilled LoRA 1.1, made smaller",
    ),
    CatalogFile(
        "ltx-2.3-id-lora-talkvid-3k",
        "lora",
        "Comfy-Org/ltx-2.3",
        "split_files/loras/ltx-2.3-id-lora-talkvid-3k.safetensors",
        0,
        "ID-LoRA, rank 128",
        "BF16",
        "speaks with a given voice; the copy that ComfyUI uses",
    ),
    *(
        _gguf("unsloth/LTX-2.3-GGUF", f"distilled-1.1/ltx-2.3-22b-distilled-1.1-{form}", form, num_bytes)
        for form, num_bytes in (
            ("Q8_0", 22_755_540_000),
            ("Q6_K", 17_800_000_000),
            ("Q4_K_M", 14_200_000_000),
            ("Q2_K", 7_940_000_000),
        )
    ),
    *(
        _gguf(
            "QuantStack/LTX-2.3-GGUF",
            f"LTX-2.3-distilled-1.1/LTX-2.3-22B-distilled-1.1-{form}",
            form,
            num_bytes,
            name=f"quantstack-ltx-2.3-22b-distilled-1.1-{form}",
        )
        for form, num_bytes in (("Q8_0", 25_500_000_000), ("Q6_K", 21_000_000_000))
    ),
    *(
        CatalogFile(
            f"ltx-2.3-22b-{model}_embeddings_connectors",
            "part",
            "unsloth/LTX-2.3-GGUF",
            f"text_encoders/ltx-2.3-22b-{model}_embeddings_connectors.safetensors",
            2_310_000_000,
            "text projection",
            "BF16",
            "goes with a GGUF transformer",
        )
        for model in ("dev", "distilled")
    ),
    CatalogFile(
        "gemma-3-12b-it-qat-UD-Q4_K_XL",
        "text encoder",
        "unsloth/gemma-3-12b-it-qat-GGUF",
        "gemma-3-12b-it-qat-UD-Q4_K_XL.gguf",
        7_430_000_000,
        "Gemma 3 12B with its tokenizer",
        "Q4_K",
        "reads prompts; needs the gguf extra",
        licence=GEMMA_LICENCE,
    ),
    CatalogFile(
        "gemma_3_12B_it_fp8_e4m3fn",
        "text encoder",
        "GitMylo/LTX-2-comfy_gemma_fp8_e4m3fn",
        "*.safetensors",
        0,
        "Gemma 3 12B with its tokenizer",
        "FP8",
        "reads prompts; cast without scales",
        licence=GEMMA_LICENCE,
    ),
    *(
        CatalogFile(
            f"ltx-2.3-{model}-fp8_mixed",
            "model",
            "drbaph/LTX-2.3-FP8",
            f"*{model}*fp8_mixed*.safetensors",
            29_900_000_000,
            WHOLE,
            "FP8",
            "blocks 1 to 42 in FP8",
        )
        for model in ("dev", "distilled")
    ),
    CatalogFile(
        "ltx-2.3-int8",
        "part",
        "Winnougan/LTX-2.3-INT8",
        "*.safetensors",
        0,
        SPLIT,
        "INT8",
        "INT8, with and without a rotation",
    ),
    CatalogFile(
        "LTX-2.3-Diffusers",
        "model",
        "diffusers/LTX-2.3-Diffusers",
        "*",
        0,
        WHOLE + ", text encoder",
        "BF16",
        "guided; a diffusers folder",
    ),
    _ic_lora("Union-Control", "ref0.5", 654_465_352, "follows depth, edges or poses"),
    _ic_lora("Motion-Track-Control", "ref0.5", 327_309_314, "follows drawn tracks"),
    _ic_lora("HDR", "0.9", 327_309_312, "high dynamic range"),
    _ic_lora("LipDub", "0.9", 2_466_665_072, "new words for a filmed mouth"),
    _ic_lora("DubIt", "0.9", 0, "new words for a filmed mouth"),
    _ic_lora("Ingredients", "0.9", 0, "people, things and places from a sheet", gated=True),
    _ic_lora("In-Outpainting", "*", 0, "fills what is masked or outside"),
    _ic_lora("Pixel-Spatial-Upscaler", "x2-0.9", 0, "makes a film twice as large"),
    _ic_lora("Pixel-Spatial-Upscaler", "x4-0.9", 0, "makes a film four times as large"),
    CatalogFile(
        "ltx-2.3-22b-ic-lora-hdr-scene-emb",
        "lora",
        "Lightricks/LTX-2.3-22b-IC-LoRA-HDR",
        "ltx-2.3-22b-ic-lora-hdr-scene-emb.safetensors",
        12_583_096,
        "contexts",
        "BF16",
        "stands in for the prompt of the HDR LoRA",
        exact=True,
    ),
    _ic_lora("Deblur", "*", 0, "sharpens"),
    _ic_lora("Decompression", "*", 0, "removes the marks of compression"),
    _ic_lora("Colorization", "*", 0, "colours a grey film"),
    _ic_lora("Day-To-Night", "*", 0, "turns day into night"),
    _ic_lora("Relight", "*", 0, "turns the sunlight of an outdoor film"),
    _ic_lora("Cross-Eyed", "*", 0, "crosses the eyes of a portrait"),
    _ic_lora("Instant-Shave", "*", 0, "takes a beard away"),
    _ic_lora("Water-Simulation", "*", 0, "adds water"),
    *(
        CatalogFile(
            f"id-lora-{data.lower()}-3k",
            "lora",
            f"AviadDahan/LTX-2.3-ID-LoRA-{data}-3K",
            "lora_weights.safetensors",
            1_157_627_904,
            "ID-LoRA, rank 128",
            "BF16",
            "speaks with a given voice",
            exact=True,
        )
        for data in ("CelebVHQ", "TalkVid")
    ),
    _first_generation("Detailer", "IC-LoRA", 2_617_401_920, "adds detail"),
    _first_generation("Pose-Control", "IC-LoRA", 654_465_256, "follows poses"),
    *(
        _first_generation(
            f"Camera-Control-{move}",
            "LoRA",
            327_309_208 if "Dolly" in move else 2_214_978_664,
            f"moves the camera: {move.replace('-', ' ').lower()}",
        )
        for move in ("Dolly-In", "Dolly-Out", "Dolly-Left", "Dolly-Right", "Jib-Up", "Jib-Down", "Static")
    ),
)

# Sets that work together. The text encoder is the smallest form that comes without a gate where there is one.
MODELS: dict[str, tuple[str, ...]] = {
    "ltx-2.3-distilled": (
        "ltx-2.3-22b-distilled-1.1",
        "gemma_3_12B_it",
        "ltx-2.3-spatial-upscaler-x2-1.1",
    ),
    "ltx-2.3-dev": (
        "ltx-2.3-22b-dev",
        "gemma_3_12B_it",
        "ltx-2.3-spatial-upscaler-x2-1.1",
        "ltx-2.3-22b-distilled-lora-384-1.1",
    ),
    "ltx-2.3-distilled-fp8": (
        "ltx-2.3-22b-distilled-1.1_transformer_only_fp8_scaled",
        "ltx-2.3_text_projection_bf16",
        "LTX23_video_vae_bf16",
        "LTX23_audio_vae_bf16",
        "gemma_3_12B_it_fp8_scaled",
        "ltx-2.3-spatial-upscaler-x2-1.1",
    ),
    "ltx-2.3-dev-fp8": (
        "ltx-2.3-22b-dev-fp8",
        "gemma_3_12B_it_fp8_scaled",
        "ltx-2.3-spatial-upscaler-x2-1.1",
        "ltx-2.3-22b-distilled-lora-384-1.1",
    ),
}

_BY_NAME = {file.name.lower(): file for file in FILES}


def find(name: str) -> tuple[CatalogFile, ...]:
    """Return the files of a model's or a file's name, with or without its ending, in any case.

    Raises RequestError for a name that is not published, with the nearest ones.
    """
    key = name.lower().removesuffix(".safetensors").removesuffix(".gguf")
    if key in MODELS:
        return tuple(_BY_NAME[file.lower()] for file in MODELS[key])
    if key in _BY_NAME:
        return (_BY_NAME[key],)
    near = nearest(key, [*MODELS, *(file.name for file in FILES)])
    known = ", ".join(dict.fromkeys((*near, *near_first(key, MODELS))))
    raise RequestError(
        f"name is '{name}', which is not in the catalogue; it has {known}, and the files that "
        "`soundstage models list` shows",
        field="name",
    )


def by_file_name(file_name: str) -> CatalogFile | None:
    """Return the single-file entry that a file on disk is a download of, by its name alone."""
    for file in FILES:
        pattern = PurePosixPath(file.path).name
        if not file.is_folder and pattern not in _SHARED_NAMES and fnmatchcase(file_name, pattern):
            return file
    return None


# Names that say nothing about what a file is.
_SHARED_NAMES = frozenset({"*.safetensors", "lora_weights.safetensors"})


def gigabytes(num_bytes: int) -> str:
    """Decimal, as the hub shows them: 46.1 GB, 262 MB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
