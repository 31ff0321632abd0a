"""Nodes that hold what a clip is made from: pictures, clips, sounds, LoRAs, long takes, options."""

from __future__ import annotations

from typing import Any

from soundstage.request.inputs import Audio, Guide, Lora, Reference, Source
from soundstage.request.request import Request
from soundstage.request.take import Take

from . import hooks, media
from .widgets import plain_fields, read, widgets

CATEGORY = "Soundstage"
OTHER_FILE = "(path below)"
COMMON = ("negative_prompt", "size", "duration_s", "fps", "steps", "guidance", "recipe", "modalities")

FPS = ("FLOAT", {"default": 24.0, "min": 1.0, "max": 240.0, "tooltip": "Frames per second of the images."})


class InputNode:
    """A node that makes one value from a record's widgets and linked media."""

    CATEGORY = CATEGORY
    FUNCTION = "collect"


class GuideNode(InputNode):
    DESCRIPTION = "A picture, or a clip as a batch of images, that the result shows at a given time."
    RETURN_TYPES = ("SOUNDSTAGE_GUIDES",)
    RETURN_NAMES = ("guides",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"image": ("IMAGE",), **widgets(Guide, plain_fields(Guide))},
            "optional": {"guides": ("SOUNDSTAGE_GUIDES", {"tooltip": "Guides before this one."})},
        }

    def collect(self, image: Any, guides: tuple[Guide, ...] = (), **values: Any) -> tuple[Any]:
        return ((*guides, Guide(image=media.picture(image), **read(Guide, values))),)


class ReferenceNode(InputNode):
    DESCRIPTION = "A clip that conditions the result without being shown, as in-context LoRAs use it."
    RETURN_TYPES = ("SOUNDSTAGE_REFERENCES",)
    RETURN_NAMES = ("references",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE",),
                "images_fps": FPS,
                **widgets(Reference, plain_fields(Reference)),
            },
            "optional": {"mask": ("MASK",), "references": ("SOUNDSTAGE_REFERENCES",)},
        }

    def collect(
        self,
        images: Any,
        images_fps: float,
        mask: Any = None,
        references: tuple[Reference, ...] = (),
        **values: Any,
    ) -> tuple[Any]:
        clip = media.film(None, images, None, images_fps).media
        fields = read(Reference, values)
        if mask is not None:
            fields["mask"] = media.mask_picture(mask)
        return ((*references, Reference(**fields, video=clip)),)


class SoundNode(InputNode):
    DESCRIPTION = "A sound that the picture follows, or the voice of new speech."
    RETURN_TYPES = ("SOUNDSTAGE_SOUND",)
    RETURN_NAMES = ("sound",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"audio": ("AUDIO",), **widgets(Audio, plain_fields(Audio))}}

    def collect(self, audio: Any, **values: Any) -> tuple[Any]:
        return (Audio(file=media.sound(audio), **read(Audio, values)),)


class LoraNode(InputNode):
    DESCRIPTION = "A LoRA; link several nodes for a stack."
    RETURN_TYPES = ("SOUNDSTAGE_LORAS",)
    RETURN_NAMES = ("loras",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        own = [name for name in plain_fields(Lora) if name != "path"]
        file = widgets(Lora, ["path"])["path"][1]["tooltip"]
        return {
            "required": {
                "lora": ([*hooks.lora_names(), OTHER_FILE], {"tooltip": file}),
                **widgets(Lora, own),
            },
            "optional": {
                "path": ("STRING", {"default": "", "tooltip": f"With '{OTHER_FILE}': {file}"}),
                "loras": ("SOUNDSTAGE_LORAS", {"tooltip": "LoRAs before this one."}),
            },
        }

    def collect(
        self, lora: str, path: str = "", loras: tuple[Lora, ...] = (), **values: Any
    ) -> tuple[tuple[Lora, ...]]:
        file = path if lora == OTHER_FILE else hooks.lora_path(lora)
        return ((*loras, Lora(path=file, **read(Lora, values))),)


class SourceNode(InputNode):
    DESCRIPTION = "A clip to change: retake a part, extend, restyle, or keep the picture or the sound."
    RETURN_TYPES = ("SOUNDSTAGE_SOURCE",)
    RETURN_NAMES = ("source",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        file = "In place of links: a clip of ComfyUI's input folder, or its full path."
        return {
            "required": {"images_fps": FPS, **widgets(Source, plain_fields(Source))},
            "optional": {
                "video": ("VIDEO",),
                "images": ("IMAGE",),
                "audio": ("AUDIO",),
                "mask": ("MASK", {"tooltip": widgets(Source, ["mask"])["mask"][1]["tooltip"]}),
                "file": ("STRING", {"default": "", "tooltip": file}),
            },
        }

    def collect(
        self,
        images_fps: float,
        video: Any = None,
        images: Any = None,
        audio: Any = None,
        mask: Any = None,
        file: str = "",
        **values: Any,
    ) -> tuple[Any]:
        fields = read(Source, values)
        if mask is not None:
            fields["mask"] = media.mask_picture(mask)
        if file.strip():
            return (Source(**fields, video=hooks.input_path(file.strip())),)
        clip = media.film(video, images, audio, images_fps)
        fields["audio" if clip.frames is None else "video"] = clip.media
        return (Source(**fields),)


class TakeNode(InputNode):
    DESCRIPTION = "How a clip longer than the model makes at once is split into windows and joined."
    RETURN_TYPES = ("SOUNDSTAGE_TAKE",)
    RETURN_NAMES = ("take",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": widgets(Take, plain_fields(Take))}

    def collect(self, **values: Any) -> tuple[Take]:
        return (Take(**read(Take, values)),)


class OptionsNode(InputNode):
    DESCRIPTION = "All further options of a clip."
    RETURN_TYPES = ("SOUNDSTAGE_OPTIONS",)
    RETURN_NAMES = ("options",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        apart = {"prompt", "seed", *COMMON}
        return {"required": widgets(Request, [name for name in plain_fields(Request) if name not in apart])}

    def collect(self, **values: Any) -> tuple[dict[str, Any]]:
        return (read(Request, values),)
