"""The flags of the official LTX-2 and LTX-Video programs, and what each is here. Data only.

docs/official.md has the tables, which `python -m soundstage.cli.official_flags docs/official.md` writes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Way = Literal["option", "scale", "clip", "choice", "place", "refused", "idle", "own"]


@dataclass(frozen=True)
class OfficialFlag:
    """Describe one flag.

    way: option is the same value behind another option, scale one guidance value, clip PATH [STRENGTH] as
    one word, choice a value with another name, place an argument of a command, refused and idle flags without
    an equal, own a flag with a function of its own. to: the option or argument. words: the sentence to say,
    or to print in the docs. count: a number of values, or * for all words up to the next flag. choices: our
    words by value.
    """

    way: Way
    to: str = ""
    words: str = ""
    count: str = "1"
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class OfficialProgram:
    """Describe one program: our command, and what to know of it."""

    command: str
    words: str = ""


def _option(to: str) -> OfficialFlag:
    return OfficialFlag("option", to)


def _scale(to: str, name: str, count: str = "1") -> OfficialFlag:
    return OfficialFlag("scale", to, name, count)


def _refused(words: str, count: str = "1") -> OfficialFlag:
    return OfficialFlag("refused", "", words, count)


def _idle(words: str, count: str = "1") -> OfficialFlag:
    return OfficialFlag("idle", "", words, count)


def _own(words: str, count: str = "1") -> OfficialFlag:
    return OfficialFlag("own", "", words, count)


_ENHANCER = "here --enhance gemma does it, by the model's own text encoder; leave it out"
_LATER = "this belongs to models after LTX-2.3; leave it out"
_LIVE = "this belongs to the streaming model; leave it out, and see --take for long clips"
_SPEED = "fast paths are chosen here by the machine; `soundstage doctor` shows them"

FLAGS: dict[str, OfficialFlag] = {
    # What to make
    "--prompt": OfficialFlag("place", "prompt", "the prompt argument"),
    "--negative-prompt": _option("--negative-prompt"),
    "--output-path": _option("--output"),
    "--seed": _option("--seed"),
    "--height": _own("`--size WIDTHxHEIGHT`, with `--width`"),
    "--width": _own("`--size WIDTHxHEIGHT`, with `--height`"),
    "--num-frames": _option("--frames"),
    "--frame-rate": _option("--fps"),
    "--num-inference-steps": _option("--steps"),
    "--disable-audio": OfficialFlag("choice", "--only", "", "0", {"": ("--only", "video")}),
    "--skip-stage-2": OfficialFlag("choice", "--recipe", "", "0", {"": ("--recipe", "draft")}),
    # Pictures, clips and sounds
    "--image": _own(
        "`--image PATH@fFRAME:STRENGTH`, and `--crf`; frame -1, before the first, is `@before`", "*"
    ),
    "--video-conditioning": OfficialFlag("clip", "--reference", count="2"),
    "--conditioning-attention-strength": _option("--reference-attention"),
    "--conditioning-attention-mask": _own("`--reference-mask MASK --reference-attention STRENGTH`", "2"),
    "--video-path": OfficialFlag("place", "video", "the clip of `retake`; elsewhere `--video`"),
    "--start-time": OfficialFlag("place", "start", "the START of `retake`; elsewhere `--span`"),
    "--end-time": OfficialFlag("place", "end", "the END of `retake`; elsewhere `--span`"),
    "--reference-video": OfficialFlag("place", "spoken", "the clip of `dub`"),
    "--reference-strength": OfficialFlag(
        "place", "spoken strength", "the strength of that clip: `PATH:STRENGTH`"
    ),
    "--audio-path": OfficialFlag("place", "audio", "the sound of `a2v`; elsewhere `--audio`"),
    "--audio-input-path": OfficialFlag("place", "audio", "the sound of `a2v`; elsewhere `--audio`"),
    "--audio-start-time": _option("--audio-start"),
    "--audio-max-duration": _refused("a sound is cut to the length of the clip; give --duration or --frames"),
    "--identity-guidance-scale": _option("--identity-guidance"),
    # Guidance
    "--cfg-guidance-scale": _option("--guidance"),
    "--video-cfg-guidance-scale": _option("--video-guidance"),
    "--audio-cfg-guidance-scale": _option("--audio-guidance"),
    "--video-stg-guidance-scale": _scale("--video-scale", "stg"),
    "--video-stg-blocks": _scale("--video-scale", "stg_blocks", "*"),
    "--video-rescale-scale": _scale("--video-scale", "rescale"),
    "--video-skip-step": _scale("--video-scale", "skip_step"),
    "--a2v-guidance-scale": _scale("--video-scale", "modality"),
    "--audio-stg-guidance-scale": _scale("--audio-scale", "stg"),
    "--audio-stg-blocks": _scale("--audio-scale", "stg_blocks", "*"),
    "--audio-rescale-scale": _scale("--audio-scale", "rescale"),
    "--audio-skip-step": _scale("--audio-scale", "skip_step"),
    "--v2a-guidance-scale": _scale("--audio-scale", "modality"),
    # Models
    "--checkpoint-path": _option("--model"),
    "--distilled-checkpoint-path": _option("--model"),
    "--transformer-path": _option("--model"),
    "--gemma-root": _option("--model"),
    "--text-encoder-path": _option("--model"),
    "--video-vae-path": _option("--model"),
    "--audio-vae-path": _option("--model"),
    "--spatial-upsampler-path": _option("--model"),
    "--temporal-upsampler-path": _option("--model"),
    "--stage-2-checkpoint-path": _refused("all passes of a recipe use one model; leave it out"),
    "--lora": OfficialFlag("clip", "--lora", count="1-2"),
    "--loras": OfficialFlag("clip", "--lora", count="1-2"),
    "--distilled-lora": _own("`--model PATH`; the recipe has its strength", "1-2"),
    "--distilled-lora-strength-stage-1": _own("nothing at 0.25, which is that of `--recipe hq`"),
    "--distilled-lora-strength-stage-2": _own("nothing at 0.5, which is that of `--recipe hq`"),
    "--detailing-lora": OfficialFlag("clip", "--lora", count="1-2"),
    # High dynamic range
    "--hdr-lora": OfficialFlag("clip", "--lora", count="1-2"),
    "--text-embeddings": _option("--embeddings"),
    "--high-quality": OfficialFlag("choice", "--thin", "", "0", {"": ("--thin", "2")}),
    # Memory and speed
    "--offload": OfficialFlag(
        "choice",
        "--residency",
        choices={
            "none": ("--residency", "resident"),
            "cpu": ("--residency", "stream"),
            "disk": ("--residency", "disk"),
        },
    ),
    "--quantization": OfficialFlag(
        "choice",
        "--weights",
        choices={"fp8-cast": ("--weights", "fp8-cast"), "fp8-scaled-mm": ("--weights", "fp8")},
    ),
    "--enable-fp8": OfficialFlag("choice", "--weights", "", "0", {"": ("--weights", "fp8-cast")}),
    "--max-batch-size": _idle("passes are batched here as memory allows, with the same numbers"),
    "--compile": _idle(_SPEED, "*"),
    "--streaming-prefetch-count": _idle(_SPEED),
    "--diffvae-optimization": _idle("the decoder of LTX-2.3 has no such form"),
    # Without an equal
    "--enhance-prompt": _refused(_ENHANCER, "0"),
    "--enhance-static-cache": _refused(_ENHANCER, "0"),
    "--prompt-enhancer-gemma-root": _refused(_ENHANCER),
    "--auto-duration": _refused(
        "LTX-2.3 cannot tell the length from the words; give --duration or --frames", "2"
    ),
    "--duration-head-path": _refused(
        "LTX-2.3 cannot tell the length from the words; give --duration or --frames"
    ),
    "--num-generated-keyframes": _refused(_LATER),
    "--temporal-upsample-rounds": _refused("give --recipe smooth, which doubles the rate once"),
    "--input": _refused("give the clip by --reference"),
    "--output-dir": _refused("give a folder by --output"),
    "--skip-mp4": _idle("the preview is always written", "0"),
    "--exr-half": _idle("EXR files always have 16 bits", "0"),
    "--spatial-tile": _idle("clips are decoded in pieces as memory allows"),
    "--audio-lookahead": _refused(_LIVE),
    "--chunk-frames": _refused(_LIVE),
    "--window-chunks": _refused(_LIVE),
    "--use-kv-cache": _refused(_LIVE, "0"),
    "--video-yarn-betas": _refused(_LIVE, "*"),
    "--video-yarn-shifts": _refused(_LIVE, "*"),
    "--video-yarn-temperatures": _refused(_LIVE, "*"),
    # LTX-Video's inference program; underscores are read as dashes
    "--ckpt-path": _option("--model"),
    "--ckpt-dir": _option("--model"),
    "--text-encoder-model-name-or-path": _option("--model"),
    "--pipeline-config": _refused("give the model by --model and the passes by --recipe"),
    "--guidance-scale": _option("--guidance"),
    "--stg-scale": _option("--stg"),
    "--stg-rescale": _option("--rescale"),
    "--stg-skip-layers": _own("`--video-scale stg_blocks=...` and the same of `--audio-scale`"),
    "--stg-mode": OfficialFlag("choice", "", "nothing", choices={"attention_values": (), "stg_av": ()}),
    "--num-images-per-prompt": _option("--takes"),
    "--input-image-path": _own("`--image PATH@f0`"),
    "--input-media-path": _refused("give the clip by --video, and by --denoise how much of it is changed"),
    "--input-video-path": _refused("give the clip by --video, and by --denoise how much of it is changed"),
    "--strength": _refused("give the clip by --video, and by --denoise how much of it is changed"),
    "--conditioning-media-paths": _own("`--image PATH@fFRAME:STRENGTH` for each", "*"),
    "--conditioning-strengths": _own("the STRENGTH of each `--image`", "*"),
    "--conditioning-start-frames": _own("the FRAME of each `--image`", "*"),
    "--image-cond-noise-scale": _refused(
        "give the picture's strength: --image PATH:0.85 for a noise of 0.15"
    ),
    "--offload-to-cpu": OfficialFlag(
        "choice",
        "--residency",
        "",
        "0-1",
        {"": ("--residency", "offload"), "true": ("--residency", "offload"), "false": ()},
    ),
    "--bfloat16": OfficialFlag("choice", "--dtype", "", "0", {"": ("--dtype", "bfloat16")}),
    "--precision": OfficialFlag(
        "choice",
        "--dtype",
        choices={
            "bfloat16": ("--dtype", "bfloat16"),
            "mixed_precision": ("--dtype", "bfloat16"),
            "float32": ("--dtype", "float32"),
            "float8_e4m3fn": ("--weights", "fp8"),
        },
    ),
    "--device": _refused("the fastest device is taken; CUDA_VISIBLE_DEVICES says which there are"),
    "--decode-timestep": _refused("the decoder of LTX-2.3 takes no noise; leave it out"),
    "--decode-noise-scale": _refused("the decoder of LTX-2.3 takes no noise; leave it out"),
    "--stochastic-sampling": _refused("give --sampler euler-ancestral", "0-1"),
    "--prompt-enhancement-words-threshold": _refused(_ENHANCER),
    "--prompt-enhancer-image-caption-model-name-or-path": _refused(_ENHANCER),
    "--prompt-enhancer-llm-model-name-or-path": _refused(_ENHANCER),
    "--output-filename": _refused("give the whole path by --output"),
    "--output-format": _refused("the format is the ending of --output"),
    "--disable-load-needed-only": _idle(_SPEED, "0"),
    "--use-chipmunk-attention": _idle(_SPEED, "0"),
}

PROGRAMS: dict[str, OfficialProgram] = {
    "ti2vid_one_stage": OfficialProgram("generate", "its sizes divide by 32"),
    "ti2vid_two_stages": OfficialProgram("generate --recipe pro"),
    "ti2vid_two_stages_hq": OfficialProgram("generate --recipe hq"),
    "distilled": OfficialProgram("generate --recipe fast"),
    "ic_lora": OfficialProgram("generate --recipe fast", "with `--lora` and `--video-conditioning`"),
    "keyframe_interpolation": OfficialProgram("keyframe --recipe pro --image-mode guide"),
    "a2vid_two_stage": OfficialProgram("a2v --recipe pro"),
    "retake": OfficialProgram("retake", "with a distilled model, as the program has it"),
    "dubit": OfficialProgram("dub"),
    "t2a_one_stage": OfficialProgram("t2a"),
    "distilled_mgpu": OfficialProgram("generate --recipe fast", "on one device"),
    "ti2vid_two_stages_mgpu": OfficialProgram("generate --recipe pro", "on one device"),
    "ti2vid_two_stages_hq_mgpu": OfficialProgram("generate --recipe hq", "on one device"),
    "hdr_ic_lora": OfficialProgram("generate --recipe hdr --hdr exr", "with `--lora` and `--reference`"),
    "dfr_pipeline": OfficialProgram("", "a pipeline of models after LTX-2.3"),
    "inference": OfficialProgram("generate", "LTX-Video's inference program"),
}


def becomes(flag: OfficialFlag) -> str:
    """Return what a flag is here, for the docs."""
    if flag.way == "option":
        return f"`{flag.to}`"
    if flag.way == "scale":
        return f"`{flag.to} {flag.words}=`"
    if flag.way == "clip":
        return f"`{flag.to} PATH:STRENGTH`"
    if flag.way == "choice":
        told = (
            f"`{key}` is `{' '.join(words)}`" if key else f"`{' '.join(words)}`" for key, words in _said(flag)
        )
        return "; ".join(told) or flag.words
    return {"refused": "refused: ", "idle": "accepted, with a notice: "}.get(flag.way, "") + flag.words


def _said(flag: OfficialFlag) -> list[tuple[str, tuple[str, ...]]]:
    return [(key, words) for key, words in flag.choices.items() if words]


def flags_table() -> str:
    """Return the table of flags, those that are the same here side by side."""
    groups: dict[str, list[str]] = {}
    for name, flag in FLAGS.items():
        groups.setdefault(becomes(flag), []).append(f"`{name}`")
    rows = (f"| {', '.join(names)} | {told} |" for told, names in groups.items())
    return "\n".join(["| flag | here |", "|---|---|", *rows]) + "\n"


def programs_table() -> str:
    """Return the table of programs."""
    rows = (
        f"| `{name}` | {f'`soundstage {one.command}`' if one.command else 'none'} | {one.words} |"
        for name, one in PROGRAMS.items()
    )
    return "\n".join(["| program | here | |", "|---|---|---|", *rows]) + "\n"


def with_official(page: str) -> str:
    """Return a page of the docs with the tables as they are now."""
    for name, table in (("programs", programs_table), ("flags", flags_table)):
        begin, end = f"<!-- official {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        page = f"{before}{begin}{table()}{end}{rest.partition(end)[2]}" if found else page
    return page


if __name__ == "__main__":
    for file in sys.argv[1:]:
        Path(file).write_text(with_official(Path(file).read_text()))
