"""Nodes that make clips: the model or the server, generate, upscale, decode."""

from __future__ import annotations

import json
from typing import Any

from soundstage.errors import RequestError
from soundstage.library.installed import Library
from soundstage.memory.policy import POLICIES
from soundstage.request.inputs import BOTH, Source
from soundstage.request.recipes import all_recipes
from soundstage.request.request import Request
from soundstage.types import SPACE_SCALE, TIME_SCALE
from soundstage.weights.storage import STORAGES

from . import hooks, media
from .inputs import CATEGORY, COMMON, FPS, OTHER_FILE
from .server_stage import ServerStage
from .stages import Made, Stage, Start, local_stage
from .widgets import read, widgets

OUTPUTS = {
    "images": "IMAGE",
    "audio": "AUDIO",
    "video": "VIDEO",
    "latent": "LATENT",
    "audio_latent": "LATENT",
    "fps": "FLOAT",
    "info": "STRING",
}
PREVIEWS = (
    "INT",
    {"default": 2, "min": 0, "max": 1000, "tooltip": "A preview after every so many steps; 0 for none."},
)
STAGE = ("SOUNDSTAGE", {"tooltip": "From Soundstage Model or Soundstage Server."})


class ModelNode:
    CATEGORY = CATEGORY
    FUNCTION = "open"
    DESCRIPTION = "A model, run in ComfyUI's own process. Its weights stay while the graph uses it."
    RETURN_TYPES = ("SOUNDSTAGE",)
    RETURN_NAMES = ("stage",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = ["nano", *Library.open().names("")]
        return {
            "required": {
                "model": ([*dict.fromkeys(names), OTHER_FILE], {"default": "nano"}),
                "weights": (["auto", *STORAGES], {"tooltip": "How the transformer is held."}),
                "residency": (["auto", *POLICIES], {"tooltip": "Where weights are while not used."}),
                "device": ("STRING", {"default": "auto", "tooltip": "auto, cpu, cuda, cuda:1"}),
            },
            "optional": {
                "path": ("STRING", {"default": "", "tooltip": f"With '{OTHER_FILE}': a folder or a file."}),
            },
        }

    def open(self, model: str, path: str = "", **options: str) -> tuple[Stage]:
        return (local_stage(path.strip() if model == OTHER_FILE else model, **options),)


class ServerNode:
    CATEGORY = CATEGORY
    FUNCTION = "open"
    DESCRIPTION = "A model of a Soundstage server. The key is read from $SOUNDSTAGE_KEY; no graph holds it."
    RETURN_TYPES = ("SOUNDSTAGE",)
    RETURN_NAMES = ("stage",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "url": ("STRING", {"default": "http://127.0.0.1:8765"}),
                "model": ("STRING", {"default": "", "tooltip": "Empty is the server's first model."}),
            }
        }

    def open(self, url: str, model: str) -> tuple[Stage]:
        from soundstage.client.client import Client

        return (ServerStage(Client(url.strip()), model.strip()),)


class MakingNode:
    """A node that makes a clip and gives it in ComfyUI's own types."""

    CATEGORY = CATEGORY
    FUNCTION = "make"
    RETURN_TYPES = tuple(OUTPUTS.values())
    RETURN_NAMES = tuple(OUTPUTS)


class GenerateNode(MakingNode):
    DESCRIPTION = "Make a clip with sound from words, pictures, clips, sounds and latents."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        own = widgets(Request, ("prompt", "seed", *COMMON))
        own["recipe"] = ([recipe.name for recipe in all_recipes()], own["recipe"][1])
        denoise = "With latents: the share of the steps that changes them; 1 makes all anew, 0 only decodes."
        return {
            "required": {"stage": STAGE, **own, "preview_every": PREVIEWS},
            "optional": {
                "guides": ("SOUNDSTAGE_GUIDES",),
                "references": ("SOUNDSTAGE_REFERENCES",),
                "source": ("SOUNDSTAGE_SOURCE",),
                "sound": ("SOUNDSTAGE_SOUND",),
                "loras": ("SOUNDSTAGE_LORAS",),
                "take": ("SOUNDSTAGE_TAKE",),
                "options": ("SOUNDSTAGE_OPTIONS",),
                "latent": ("LATENT", {"tooltip": "Picture, or picture and sound joined, to start from."}),
                "audio_latent": ("LATENT", {"tooltip": "Sound to start from."}),
                "denoise": (
                    "FLOAT",
                    {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": denoise},
                ),
            },
        }

    def make(
        self,
        stage: Stage,
        preview_every: int,
        sound: Any = None,
        options: dict[str, Any] | None = None,
        latent: Any = None,
        audio_latent: Any = None,
        denoise: float = 1.0,
        **values: Any,
    ) -> tuple[Any, ...]:
        links = {name: values[name] for name in LINKS if values.get(name) is not None}
        fields = {**(options or {}), **read(Request, values), **links}
        request = Request(**fields, **({} if sound is None else {"audio": sound}))
        given = media.latents(latent, audio_latent)
        start = None if given is None else Start(given, denoise)
        return results(stage.make(request, start=start, preview_every=preview_every))


LINKS = ("guides", "references", "source", "loras", "take")


class UpscaleNode(MakingNode):
    DESCRIPTION = "Make a clip twice as large, with its sound kept."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "stage": STAGE,
                **widgets(Request, ("prompt", "seed")),
                "images_fps": FPS,
                "preview_every": PREVIEWS,
            },
            "optional": {
                "video": ("VIDEO",),
                "images": ("IMAGE",),
                "audio": ("AUDIO",),
                "loras": ("SOUNDSTAGE_LORAS",),
                "options": ("SOUNDSTAGE_OPTIONS",),
            },
        }

    def make(
        self,
        stage: Stage,
        images_fps: float,
        preview_every: int,
        video: Any = None,
        images: Any = None,
        audio: Any = None,
        loras: Any = (),
        options: dict[str, Any] | None = None,
        **values: Any,
    ) -> tuple[Any, ...]:
        clip = media.film(video, images, audio, images_fps)
        if clip.frames is None:
            raise RequestError("there is no picture to make larger; link video or images", field="source")
        source = Source(video=clip.media, modalities=frozenset({"video"}))
        silent = {"modalities": {"video"}} if clip.waveform is None else {}
        fields = {**(options or {}), **silent, **read(Request, values), "loras": loras}
        request = Request(**fields, recipe="upscale", source=source)
        return results(stage.make(request, preview_every=preview_every))


class DecodeNode(MakingNode):
    DESCRIPTION = "Decode latents of LTX-2.3 into a clip with sound."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"stage": STAGE, "latent": ("LATENT",), **widgets(Request, ["fps"])},
            "optional": {"audio_latent": ("LATENT",)},
        }

    def make(self, stage: Stage, latent: Any, audio_latent: Any = None, **values: Any) -> tuple[Any, ...]:
        given = media.latents(latent, audio_latent)
        if given is None or given.video is None:
            raise RequestError("latent has no picture; link the picture's latents", field="latent")
        frames, height, width = given.video.shape[2:]
        request = Request(
            prompt="latents decoded",
            size=(width * SPACE_SCALE, height * SPACE_SCALE),
            num_frames=(frames - 1) * TIME_SCALE + 1,
            modalities=frozenset({"video"}) if given.audio is None else BOTH,
            allow_unfit=True,
            **read(Request, values),
        )
        return results(stage.make(request, start=Start(given, denoise=0)))


def results(made: Made) -> tuple[Any, ...]:
    """Return what a node gives of a finished clip. Nodes behind what was not made are left out."""
    clip = made.clip
    found = {
        "images": media.image_of(clip),
        "audio": media.audio_of(clip),
        "video": media.video_of(clip),
        "latent": media.latent_of(made.video_latents, "video"),
        "audio_latent": media.latent_of(made.audio_latents, "audio"),
    }
    told = {**clip.provenance, "notes": made.notes}
    info = json.dumps(told, ensure_ascii=False, indent=1)
    values = [hooks.missing() if value is None else value for value in found.values()]
    return (*values, clip.fps, info)
