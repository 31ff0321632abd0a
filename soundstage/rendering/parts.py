"""Build the parts of a model on first use, and encode, upsample and decode with them."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from soundstage.errors import RequestError, WeightsError
from soundstage.library.file_identity import file_identity
from soundstage.library.model_files import ModelSet
from soundstage.memory.machine import asked_format, choose_format
from soundstage.memory.offload import (
    OffloadedFile,
    OffloadManager,
    below,
    chunk_feed_forward,
)
from soundstage.memory.policy import Residency
from soundstage.model.audio_vae import AudioVae
from soundstage.model.long_sound import decode_sound
from soundstage.model.mel import log_mel, resample, to_stereo
from soundstage.model.pieces import decode_pieces
from soundstage.model.preview import LinearPreview, TinyDecoder
from soundstage.model.transformer import Transformer
from soundstage.model.upsampler import LatentUpsampler, upsample_latents
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.planning.plan import LoraUse
from soundstage.rendering.building import PartBuilder
from soundstage.rendering.events import At, unseen
from soundstage.rendering.finite import finite
from soundstage.rendering.loras import Adaptation, Attached, RunLoras
from soundstage.rendering.text_parts import TEXT_PARTS, TextParts
from soundstage.sampling.guidance import Contexts
from soundstage.speed import graphs, onednn
from soundstage.types import MEL_HOP, MEL_RATE_HZ, OUTPUT_RATE_HZ
from soundstage.weights.layouts import Part, PartTensors
from soundstage.weights.load import load_preview, load_upsampler
from soundstage.weights.read import TensorReader
from soundstage.weights.storage import Storage

log = logging.getLogger("soundstage.rendering")
Encoder = Literal["text", "video", "audio"]

RESIDENT = Residency()
FREE_SHARE_TO_DECODE = 0.3  # of a device's memory; below it recorded steps are given up first
# Where each encoder's weights are, besides Gemma's own files.
ENCODER_PARTS: Mapping[Encoder, tuple[Part, ...]] = {
    "text": tuple(TEXT_PARTS),
    "video": ("video_vae",),
    "audio": ("audio_vae",),
}
# Parts that are built on first use and kept under their name.
BUILT = ("transformer", "video_vae", "precise_vae", "audio_vae", "vocoder", "preview_vae")
PART_NAMES = {"video_vae": "video VAE", "audio_vae": "audio VAE"}  # as people write them
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_dtype(asked: str | None, wish: str, device: torch.device) -> torch.dtype:
    """Return the format of a run on a device, see memory/machine.py.

    asked: a name; None and "auto" leave the choice. wish: the model's.
    Raises RequestError for a name that is no format.
    """
    return DTYPES[choose_format(asked_format(asked), wish, device.type).name]


class ModelParts:
    """The parts of one model. Headers are read at once, the weights of a part on its first use.

    device and dtype are those of the latents. Contexts are (1, S, W) and latents (1, ...) throughout.
    residency: where weights are while they are not used. storage: how the transformer's weights are held; see
    planning/placement.py for both.

    Raises WeightsError or ConfigError for files that are not one LTX-2.3 model,
    RequestError for "stored" with files that are not 8-bit.
    """

    def __init__(
        self,
        model: ModelSet,
        device: torch.device,
        dtype: torch.dtype,
        residency: Residency = RESIDENT,
        storage: Storage = "full",
    ) -> None:
        onednn.steady()
        log.info("model %s on %s, %s", model.name, device, str(dtype).removeprefix("torch."))
        self.model = model
        self.device = device
        self.dtype = dtype
        self.residency = residency
        self.storage = storage
        self._upsamplers: dict[str, LatentUpsampler] = {}
        self._recorded: graphs.Recorded | None = None
        self._open()

    def _open(self) -> None:
        """Read the headers of the model's files."""
        self._contents = self.model.contents
        self._build = PartBuilder(self.model, self.device, self.dtype, self.residency, self.storage)
        self._begin()

    def _begin(self) -> None:
        """Set up what is built on first use."""
        self.text = TextParts(self.model, self._build, self.residency)
        self._loras = RunLoras(_Adapted(self), self._build.tensors)

    @property
    def manager(self) -> OffloadManager:
        """Return the manager that has one part at a time on the device."""
        return self._build.manager

    @property
    def stored(self) -> Mapping[Part, PartTensors]:
        """Return where each part's weights are in the files."""
        return self._build.tensors

    @property
    def adaptation(self) -> Adaptation:
        """Return the LoRAs that the current run has put on the parts; see `restore`."""
        return self._loras.adaptation

    # --- the parts, each built on first use

    @cached_property
    def transformer(self) -> Transformer:
        if self.residency.streams_blocks:
            module, tensors = self._build.opened("transformer")
            assert isinstance(module, Transformer)
            placed = self._build.stream(module, tensors, "transformer_blocks", self.residency, self.storage)
            self.manager.add("transformer", placed, calls=module)
        else:
            module = self._build.load("transformer", Transformer, storage=self.storage)
            self._build.manage("transformer", module, self._build.tensors["transformer"], calls=module)
        chunk_feed_forward(module, self.residency.feed_forward_tokens)
        self._build.speed_up(module)
        if self.residency.policy == "resident":
            self._recorded = graphs.record_steps(module, self.device, lambda: self._loras.state())
        return module

    @cached_property
    def video_vae(self) -> VideoVae:
        vae = self._build.load("video_vae", VideoVae)
        self._build.speed_up(vae)
        stored = self._build.tensors["video_vae"]
        self._build.manage("video encoder", vae.encoder, below(stored, "encoder."))
        self._build.manage("video decoder", vae.decoder, below(stored, "decoder."))
        statistics = vae.per_channel_statistics  # upsamplers read it without the rest
        if self._build.in_files:
            OffloadedFile(
                statistics, below(stored, "per_channel_statistics."), self.dtype, self.device
            ).arrive()
        statistics.to(self.device)
        return vae

    @cached_property
    def precise_vae(self) -> VideoVae:
        """Return the video VAE in float32, for light: bfloat16 holds 8 bits of its codes."""
        vae = self._build.load("video_vae", VideoVae, torch.float32)
        stored = below(self._build.tensors["video_vae"], "decoder.")
        self._build.manage("precise video decoder", vae.decoder, stored, dtype=torch.float32)
        vae.per_channel_statistics = self.video_vae.per_channel_statistics
        return vae

    @cached_property
    def audio_vae(self) -> AudioVae:
        """Return the audio VAE, always in float32: bfloat16 kernels are slow at its odd widths."""
        vae = self._build.load("audio_vae", AudioVae, torch.float32)
        self._build.manage("audio VAE", vae, self._build.tensors["audio_vae"], dtype=torch.float32)
        return vae

    @cached_property
    def vocoder(self) -> Vocoder:
        """Return the vocoder, always in float32: in bfloat16 its error is audible."""
        vocoder = self._build.load("vocoder", Vocoder, torch.float32)
        self._build.manage(
            "vocoder", vocoder, self._build.tensors["vocoder"], calls=vocoder, dtype=torch.float32
        )
        return vocoder

    def upsampler(self, role: str) -> LatentUpsampler:
        """Return an upsampler: "space-x2", "space-x1.5" or "time-x2".

        Raises WeightsError if the model comes without it.
        """
        if role not in self._upsamplers:
            file = self.model.extra(role)
            if file.num_bytes is None:
                raise WeightsError(f"model '{self.model.name}' has no {file.part}; put it at {file.path}")
            self._upsamplers[role] = load_upsampler(file.path, dtype=self.dtype, device=self.device)
        return self._upsamplers[role]

    @cached_property
    def preview_vae(self) -> TinyDecoder | LinearPreview:
        """Return the model's tiny decoder; without one, a linear map fitted to the decoder."""
        file = self.model.extra("preview")
        if file.num_bytes is not None:
            return load_preview(file.path, device=self.device)
        vae = self.video_vae
        self.manager.bring("video decoder")
        return LinearPreview.fitted(vae)

    def load(self, modalities: Sequence[str], at: At = unseen) -> None:
        """Build what a run of these modalities needs, so that a file that does not fit is found at once.

        Of the parts that read prompts only names and shapes are checked: they are built for a new prompt.
        at: is told which part is being read.
        """
        at("headers")
        self.text.check()
        self._check_codecs(modalities)
        wanted = ["transformer"]
        wanted += ["video_vae"] if "video" in modalities else []
        wanted += ["audio_vae", "vocoder"] if "audio" in modalities else []
        for part in wanted:
            at(PART_NAMES.get(part, part))
            getattr(self, part)

    def _check_codecs(self, modalities: Sequence[str]) -> None:
        """Raise WeightsError or ConfigError if a codec does not fit, before the transformer is read."""
        wanted: dict[str, tuple[Part, ...]] = {"video": ("video_vae",), "audio": ("audio_vae", "vocoder")}
        for part in (part for modality in modalities for part in wanted[modality]):
            if part not in self.__dict__:  # not built yet
                self._build.opened(part)

    # --- encoding and decoding

    def identity(self, encoder: Encoder) -> tuple[str, ...]:
        """Return all that an encoding depends on besides what is encoded, active LoRAs included."""
        run = (str(self.dtype), _processor(self.device), f"torch {torch.__version__}")
        files = self._encoder_files[encoder]
        if encoder != "text":
            return (encoder, *run, *files)
        return (encoder, *run, *self.text.identity(), *files, *self._loras.text_identity())

    @cached_property
    def _encoder_files(self) -> dict[Encoder, list[str]]:
        """Return the identities of each encoder's files and of the config, which any header may hold."""
        config = hashlib.sha256(
            json.dumps(self._build.config, sort_keys=True, default=str).encode()
        ).hexdigest()
        files: dict[Encoder, list[str]] = {}
        for encoder, parts in ENCODER_PARTS.items():
            stored = [tensor for part in parts for tensor in self._build.tensors.get(part, {}).values()]
            files[encoder] = [config, *map(file_identity, sorted({tensor.path for tensor in stored}))]
        return files

    def encode(self, prompts: Sequence[str]) -> list[Contexts]:
        """Return one pair of contexts per prompt."""
        return self.text.encode(prompts)

    def encode_video(self, pixels: Tensor) -> Tensor:
        """Encode pixels (1, 3, 8(T - 1) + 1, 32h, 32w) in [-1, 1] to latents (1, 128, T, h, w)."""
        vae = self.video_vae
        self.manager.bring("video encoder")
        return vae.encode(pixels.to(self.device, self.dtype))

    def encode_audio(self, waveform: Tensor, sample_rate_hz: int) -> Tensor:
        """Encode samples (1, C, n) in [-1, 1] to latents (1, 8, T, 16), 25 a second."""
        sound = resample(to_stereo(waveform.float().to(self.device)), sample_rate_hz, MEL_RATE_HZ)
        vae = self.audio_vae
        self.manager.bring("audio VAE")
        return vae.encode(log_mel(sound)).to(self.dtype)

    def upsample(self, role: str, latents: Tensor) -> Tensor:
        """Upsample video latents by "space-x2", "space-x1.5" or "time-x2" (T -> 2T - 1)."""
        return upsample_latents(latents, self.upsampler(role), self.video_vae.per_channel_statistics)

    def preview_video(self, latents: Tensor) -> Tensor:
        """Decode as `decode_video` does, but fast and roughly: smaller, and perhaps one frame per latent."""
        return self.preview_vae.decode(latents)

    def decode_video(self, latents: Tensor) -> Tensor:
        """Decode latents (1, 128, T, h, w) to pixels (1, 3, 8(T - 1) + 1, 32h, 32w), about [-1, 1]."""
        vae = self.video_vae
        self.manager.bring("video decoder")
        return vae.decode(latents)

    def decode_pieces(self, latents: Tensor) -> Iterator[Tensor]:
        """Return the frames of `decode_video` in order, in pieces (1, 3, n, 32h, 32w)."""
        return self._pieces(self.video_vae, "video decoder", latents)

    def decode_precisely(self, latents: Tensor) -> Iterator[Tensor]:
        """Return the frames of `decode_pieces`, computed in float32 whatever the run's format."""
        if self.dtype == torch.float32:
            return self.decode_pieces(latents)
        return self._pieces(self.precise_vae, "precise video decoder", latents.float())

    def _pieces(self, vae: VideoVae, name: str, latents: Tensor) -> Iterator[Tensor]:
        self._make_room()
        self.manager.bring(name)
        if self.residency.decode == "whole":
            return iter((vae.decode(latents),))
        return decode_pieces(vae, latents)

    def decode_audio(self, latents: Tensor, num_samples: int | None = None) -> Tensor:
        """Decode latents (1, 8, T, 16) to samples (1, 2, n) float32 at 48 kHz.

        num_samples: at most so many; the end is held for up to 80 ms where the latents make fewer.
        """
        vae, vocoder = self.audio_vae, self.vocoder
        self.manager.bring("audio VAE")
        num_mels = (
            None
            if num_samples is None
            else math.ceil(num_samples * (MEL_RATE_HZ // MEL_HOP) / OUTPUT_RATE_HZ)
        )
        with onednn.one_thread(self.device):
            pieces = list(decode_sound(vae, vocoder, latents.float(), num_mels=num_mels))
        return torch.cat(pieces, dim=2)[:, :, :num_samples]

    def _make_room(self) -> None:
        """Give up recorded steps if decoding may need their memory; recording one again costs little."""
        if self._recorded is not None and self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            if free < FREE_SHARE_TO_DECODE * total:
                self._recorded.forget()
                torch.cuda.empty_cache()

    # --- runs and files

    def renew(self) -> None:
        """Begin a run: no LoRA is on, and a model file that was replaced since it was read is read again."""
        if self._replaced():
            self.close()
            self._open()
        self._loras.adaptation = Adaptation(contents=self._contents)

    def check_files(self) -> None:
        """Raise WeightsError if weights are read during the run and their file was replaced meanwhile."""
        changed = self._replaced() if self._build.in_files else []
        if changed:
            raise WeightsError(
                f"{changed[0]} was replaced while a clip was made from it; make the clip again"
            )

    def _replaced(self) -> list[Path]:
        """Return the model's files that hold something else than when they were read."""
        found = self.model.contents
        return [path for path, content in self._contents.items() if found.get(path, content) != content]

    def read_loras(self, paths: Sequence[str]) -> None:
        """Read a run's LoRAs before its weights, so that an unusable one is refused at once."""
        self._loras.read(paths)

    def attach(self, paths: Sequence[str]) -> list[Attached]:
        """Make LoRAs known to the run; return those whose content was not known before."""
        return self._loras.attach(paths)

    def adapt(self, loras: Sequence[LoraUse], video: Tensor | None, audio: Tensor | None) -> None:
        """Put these LoRAs on the model and take all others off.

        video, audio: positions (1, A, N, 2) of a pass's tokens, for LoRAs that hold for a time. Those do not
        touch the reading of prompts, which have no time.
        """
        self._loras.adapt(loras, video, audio)

    def restore(self, adaptation: Adaptation) -> None:
        """Put on what a run had put on, and take all else off. What is not built any more is built again.

        Raises RequestError where a file that is needed has changed since the run began.
        """
        if adaptation.contents is not None and adaptation.contents != self._contents:
            raise RequestError("the model's files were replaced while this clip was made; make it again")
        self._loras.restore(adaptation)

    def damaged(self) -> str | None:
        """Return the name of a weight that is not a finite number; None if all that are in use are."""
        for name, weight in self._weights():
            if weight.is_floating_point() and not finite(weight):
                return name
        return None

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight of the parts that were built, from its file where it is in no memory."""
        with TensorReader() as files:
            for part, module in self._built_modules():
                of_part = self._build.tensors.get(cast(Part, part), {})
                stored = self.text.gemma_tensors if part == "text encoder" else of_part
                for key, weight in (*module.named_parameters(), *module.named_buffers()):
                    if not weight.is_meta:
                        yield f"{part}.{key}", weight
                    elif key in stored:
                        yield f"{part}.{key}", files.value(stored[key], torch.float32, torch.device("cpu"))

    def _built_modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield from self.text.modules()
        for name in BUILT:
            if isinstance(module := vars(self).get(name), nn.Module):
                yield name, module
        yield from self._upsamplers.items()

    def takes(self, residency: Residency, storage: Storage) -> bool:
        """Take another residency if no weight has to move for it; return whether it was taken."""
        alike = replace(residency, decode=self.residency.decode) == self.residency
        if alike and storage == self.storage:
            self.residency = residency
            return True
        return False

    def close(self) -> None:
        """Give up all that is built, and the threads that copy blocks; what is used later is built again."""
        self.manager.close()
        for name in (*BUILT, "_encoder_files"):
            vars(self).pop(name, None)
        self._upsamplers.clear()
        self._recorded = None
        self._begin()
        gc.collect()  # modules and their hooks hold each other, and their memory is wanted now

    def keep_transformer(self) -> None:
        """Give up all that is built but the transformer, and take all LoRAs off it."""
        self._loras.close()
        self.manager.close(but="transformer")
        for name in set(BUILT) - {"transformer"}:
            vars(self).pop(name, None)
        self._upsamplers.clear()
        self._begin()
        gc.collect()


class _Adapted(Mapping[Part, nn.Module]):
    """The parts that LoRAs go on; each is built when the first LoRA has a layer there."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts

    def __getitem__(self, part: Part) -> nn.Module:
        if part in TEXT_PARTS:
            return self._parts.text.part(part)
        if part == "transformer":
            return self._parts.transformer
        raise KeyError(part)

    def __iter__(self) -> Iterator[Part]:
        yield "transformer"
        yield from TEXT_PARTS

    def __len__(self) -> int:
        return 1 + len(TEXT_PARTS)


def _processor(device: torch.device) -> str:
    """Return a name for what rounds alike: the processor and the number of its threads."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
