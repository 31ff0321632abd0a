"""The parts of a model, built when first used and kept: what an engine needs of a model, and nothing else.

`Parts` is the interface; `LoadedParts` builds it from a model folder.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from soundstage.errors import RequestError, WeightsError
from soundstage.library.model_files import ModelSet, file_identity
from soundstage.memory.machine import asked_format, choose_format
from soundstage.memory.offload import (
    OffloadedFile,
    OffloadedModule,
    OffloadManager,
    Streamed,
    below,
    chunk_feed_forward,
    stream_built,
    stream_from_files,
)
from soundstage.memory.policy import Residency
from soundstage.model.audio_vae import AudioVae
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.long_sound import decode_sound
from soundstage.model.mel import log_mel, resample, to_stereo
from soundstage.model.preview import LinearPreview, TinyDecoder
from soundstage.model.transformer import Transformer
from soundstage.model.upsampler import LatentUpsampler, upsample_latents
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.rendering.finite import finite
from soundstage.rendering.loras import Adaptation, Attached, RunLoras
from soundstage.sampling.guidance import Contexts, Velocity
from soundstage.speed import cuda, graphs, onednn
from soundstage.types import MEL_HOP, MEL_RATE_HZ, OUTPUT_RATE_HZ
from soundstage.weights.configs import model_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import Part, PartTensors, find_parts
from soundstage.weights.load import builder, load_part, load_preview, load_upsampler, open_part
from soundstage.weights.read import Tensors
from soundstage.weights.storage import Storage, check_storage

if TYPE_CHECKING:
    from soundstage.lora.report import AdapterReport
    from soundstage.planning.plan import LoraUse
    from soundstage.text.encoder import TextEncoder
    from soundstage.text.gemma import Gemma

log = logging.getLogger("soundstage.rendering")
Module = TypeVar("Module", bound=nn.Module)
Encoder = Literal["text", "video", "audio"]

RESIDENT = Residency()
FREE_SHARE_TO_DECODE = 0.3  # of a device's memory; below it recorded steps are given up first
TEXT_PARTS: dict[Part, type[nn.Module]] = {
    "text_projection": FeatureExtractor,
    "video_connector": Connector,
    "audio_connector": Connector,
}
# Where each encoder's weights are, besides Gemma's own files.
ENCODER_PARTS: Mapping[Encoder, tuple[Part, ...]] = {
    "text": tuple(TEXT_PARTS),
    "video": ("video_vae",),
    "audio": ("audio_vae",),
}
# Parts that are built on first use and kept under their name.
BUILT = ("transformer", "video_vae", "audio_vae", "vocoder", "text_encoder", "preview_vae")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Parts(Protocol):
    """device and dtype are those of the latents; (1, S, W) contexts and (1, ...) latents throughout.

    storage: how the transformer's weights are held. adaptation: what the run that has its turn has put on
    them; `restore` puts it back after another run had its turn.
    """

    device: torch.device
    dtype: torch.dtype
    storage: Storage

    @property
    def adaptation(self) -> Adaptation: ...

    @property
    def transformer(self) -> Velocity: ...

    def load(self, modalities: Sequence[str]) -> None:
        """Build what a run of these modalities needs besides prompts; nothing if it is built already."""
        ...

    def identity(self, encoder: Encoder) -> tuple[str, ...]:
        """All that an encoding's bits depend on besides what is encoded, the LoRAs that are on included."""
        ...

    def encode(self, prompts: Sequence[str]) -> list[Contexts]:
        """One pair of contexts per prompt."""
        ...

    def encode_video(self, pixels: Tensor) -> Tensor:
        """Pixels (1, 3, 8(T - 1) + 1, 32h, 32w) float32 in [-1, 1] -> latents (1, 128, T, h, w)."""
        ...

    def encode_audio(self, waveform: Tensor, sample_rate_hz: int) -> Tensor:
        """Samples (1, C, n) in [-1, 1] -> latents (1, 8, T, 16), 25 a second."""
        ...

    def upsample(self, role: str, latents: Tensor) -> Tensor:
        """Video latents through an upsampler: "space-x2", "space-x1.5" or "time-x2" (T -> 2T - 1)."""
        ...

    def renew(self) -> None:
        """Begin a run: no LoRA is on, and a model file that was replaced since it was read is read again."""
        ...

    def check_files(self) -> None:
        """Raise WeightsError if weights are read during the work and their file was replaced since then."""
        ...

    def attach(self, paths: Sequence[str]) -> list[Attached]:
        """Make LoRAs known to the run; those whose content was not known before are returned."""
        ...

    def restore(self, adaptation: Adaptation) -> None:
        """Put on what a run had put on; all other LoRAs are off. What is not built any more is built again.

        Raises RequestError where a file that is needed has changed since the run began.
        """
        ...

    def close(self) -> None:
        """Give up all that is built; what is used later is built again."""
        ...

    def damaged(self) -> str | None:
        """Return the name of a weight that is not a finite number; None if all that are in use are."""
        ...

    def adapt(self, loras: Sequence[LoraUse], video: Tensor | None, audio: Tensor | None) -> None:
        """Put these LoRAs on the model and take all others off.

        video, audio: positions (1, A, N, 2) of a pass's tokens, for adapters that hold for a time. These do
        not touch the reading of prompts, which have no time.
        """
        ...

    def preview_video(self, latents: Tensor) -> Tensor:
        """As `decode_video`, quickly and roughly: smaller, and perhaps one frame per latent."""
        ...

    def decode_video(self, latents: Tensor) -> Tensor:
        """(1, 128, T, h, w) -> pixels (1, 3, 8(T - 1) + 1, 32h, 32w), about [-1, 1]."""
        ...

    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """The frames of `decode_video` in order, in pieces (1, 3, n, 32h, 32w)."""
        ...

    def decode_audio(self, latents: Tensor, num_samples: int | None = None) -> Tensor:
        """(1, 8, T, 16) -> samples (1, 2, n) float32 at 48 kHz, as many as the latents make.

        num_samples: at most so many; the end is held for up to 80 ms where the latents make fewer.
        """
        ...


def pick_dtype(asked: str | None, wish: str, device: torch.device) -> torch.dtype:
    """Return the format of a run on a device, see memory/machine.py.

    asked: a name; None and "auto" leave the choice. wish: the model's.
    Raises RequestError for a name that is no format.
    """
    return DTYPES[choose_format(asked_format(asked), wish, device.type).name]


class LoadedParts:
    """Parts read from a model folder. Each file's header is read at once, each part's weights on first use.

    residency: where weights are while they are not used; storage: how the transformer's are held; see
    planning/placement.py. Raises WeightsError or ConfigError for files that are not one LTX-2.3 model,
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
        self.manager = OffloadManager()
        self._text_parts: dict[Part, nn.Module] = {}
        self._gemma_tensors: PartTensors = {}  # where its layers stay in their files
        self._upsamplers: dict[str, LatentUpsampler] = {}
        self._recorded: graphs.Recorded | None = None
        # On the CPU what is streamed is beside the rest, in the same memory: the rest has nowhere to go.
        self._moves = residency.policy == "offload" or (
            residency.policy == "stream" and device.type == "cuda"
        )
        self._in_files = residency.policy == "disk"
        self._open()

    def _open(self) -> None:
        """Read the headers of the model's files."""
        self._contents = self.model.contents
        files = [read_header(path) for path in self.model.weights_files]
        self._tensors = find_parts(files)
        check_storage(self._tensors.get("transformer", {}), self.storage)
        self._config = model_config(files)
        self._loras = RunLoras(_Adapted(self), self._tensors)

    @cached_property
    def transformer(self) -> Transformer:
        if self.residency.streams:
            build = builder("transformer", self._tensors, self._config)
            module, tensors = open_part(build, self._tensors, "transformer")
            assert isinstance(module, Transformer)
            placed = self._streamed(module, tensors, "transformer_blocks", self.residency, self.storage)
            self.manager.add("transformer", placed, calls=module)
        else:
            module = self._load("transformer", Transformer, storage=self.storage)
            self._manage("transformer", module, self._tensors["transformer"], calls=module)
        chunk_feed_forward(module, self.residency.feed_forward_tokens)
        self._speed_up(module)
        if self.residency.policy == "resident":
            self._recorded = graphs.record_steps(module, self.device, lambda: self._loras.state())
        return module

    @cached_property
    def video_vae(self) -> VideoVae:
        vae = self._load("video_vae", VideoVae)
        self._speed_up(vae)
        stored = self._tensors["video_vae"]
        self._manage("video encoder", vae.encoder, below(stored, "encoder."))
        self._manage("video decoder", vae.decoder, below(stored, "decoder."))
        statistics = vae.per_channel_statistics  # upsamplers read it without the rest
        if self._in_files:
            OffloadedFile(
                statistics, below(stored, "per_channel_statistics."), self.dtype, self.device
            ).arrive()
        statistics.to(self.device)
        return vae

    @cached_property
    def audio_vae(self) -> AudioVae:
        """Always float32, like the vocoder: small, and bfloat16 kernels are slow at odd widths."""
        vae = self._load("audio_vae", AudioVae, torch.float32)
        self._manage("audio VAE", vae, self._tensors["audio_vae"], dtype=torch.float32)
        return vae

    @cached_property
    def vocoder(self) -> Vocoder:
        """Always float32: in bfloat16 its error is audible."""
        vocoder = self._load("vocoder", Vocoder, torch.float32)
        self._manage("vocoder", vocoder, self._tensors["vocoder"], calls=vocoder, dtype=torch.float32)
        return vocoder

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Built for the first prompt that was not encoded before."""
        from soundstage.text.encoder import TextEncoder  # transformers is slow to import

        modules = [self.text_part(part) for part in TEXT_PARTS]
        return TextEncoder(self._gemma(), *modules)  # type: ignore[arg-type]

    def _gemma(self) -> Gemma:
        """Gemma, which arrives to be asked. In files, its layers are read whenever a prompt is."""
        from soundstage.text.gemma import Gemma

        path, num_tokens = self.model.text_path, self.model.defaults.text_tokens
        if self._in_files:
            gemma, tensors = Gemma.open(path, num_tokens=num_tokens)
            self._gemma_tensors = tensors
            self.manager.add("gemma", self._streamed(gemma.model, tensors, "layers", Residency("disk")))
            return gemma
        with _timed("gemma"):
            gemma = Gemma.load(path, num_tokens=num_tokens, dtype=self.dtype, device=self._home)
        model = gemma.model
        if self._moves and self.residency.text == "stream":
            layers = list(cast(nn.ModuleList, model.get_submodule("layers")))
            self.manager.add("gemma", stream_built(model, layers, Residency("stream"), self.device))
        elif self._moves:
            self.manager.add("gemma", OffloadedModule([model], self.device, pin=False))
        return gemma

    def text_part(self, part: Part) -> nn.Module:
        """The projection or a connector, which arrives when it is called."""
        if part not in self._text_parts:
            module = self._text_parts[part] = self._load(part, TEXT_PARTS[part])
            self._speed_up(module)
            self._manage(part, module, self._tensors[part], calls=module)
        return self._text_parts[part]

    def upsampler(self, role: str) -> LatentUpsampler:
        """role: "space-x2", "space-x1.5" or "time-x2". Raises WeightsError if the model comes without it."""
        if role not in self._upsamplers:
            file = self.model.extra(role)
            if file.num_bytes is None:
                raise WeightsError(f"model '{self.model.name}' has no {file.part}; put it at {file.path}")
            self._upsamplers[role] = load_upsampler(file.path, dtype=self.dtype, device=self.device)
        return self._upsamplers[role]

    def load(self, modalities: Sequence[str]) -> None:
        """Build all that a run needs, so that a file that does not fit is found before the work begins.

        Of what reads prompts only names and shapes are looked at: it is built when a prompt is new.
        """
        self._check_text()
        self._check_codecs(modalities)
        _ = self.transformer
        if "video" in modalities:
            _ = self.video_vae
        if "audio" in modalities:
            _ = self.audio_vae, self.vocoder

    def _check_codecs(self, modalities: Sequence[str]) -> None:
        """Raise WeightsError or ConfigError if a codec does not fit, before the transformer is read."""
        wanted: dict[str, tuple[Part, ...]] = {"video": ("video_vae",), "audio": ("audio_vae", "vocoder")}
        for part in (part for modality in modalities for part in wanted[modality]):
            if part not in self.__dict__:  # not built yet
                open_part(builder(part, self._tensors, self._config), self._tensors, part)

    def _check_text(self) -> None:
        """Raise WeightsError or ConfigError if the text encoder's files do not fit; reads headers only."""
        from soundstage.text.source import check_headers

        for part in TEXT_PARTS:
            module, _ = open_part(builder(part, self._tensors, self._config), self._tensors, part)
            if isinstance(module, FeatureExtractor):
                check_headers(self.model.text_path, module.config.text_width, module.config.num_states)

    def identity(self, encoder: Encoder) -> tuple[str, ...]:
        run = (str(self.dtype), _processor(self.device), f"torch {torch.__version__}")
        files = self._encoder_files[encoder]
        if encoder != "text":
            return (encoder, *run, *files)
        reading = (f"transformers {version('transformers')}", str(self.model.defaults.text_tokens))
        on = self._loras.text_identity()
        return (encoder, *run, *reading, *self.model.text_identity, *files, *on)

    @cached_property
    def _encoder_files(self) -> dict[Encoder, list[str]]:
        """Files of each encoder's parts, and the config, which may be in the header of another one."""
        config = hashlib.sha256(json.dumps(self._config, sort_keys=True, default=str).encode()).hexdigest()
        files: dict[Encoder, list[str]] = {}
        for encoder, parts in ENCODER_PARTS.items():
            stored = [tensor for part in parts for tensor in self._tensors.get(part, {}).values()]
            files[encoder] = [config, *map(file_identity, sorted({tensor.path for tensor in stored}))]
        return files

    def encode(self, prompts: Sequence[str]) -> list[Contexts]:
        encoder, features = self.text_encoder, []
        with torch.no_grad():
            for prompt in prompts:
                self.manager.bring("gemma")  # the projection may have taken its place
                features.append(encoder.encode_features([prompt]))
            contexts = [encoder.connect(feature) for feature in features]
        return [Contexts(context.video, context.audio) for context in contexts]

    def encode_video(self, pixels: Tensor) -> Tensor:
        vae = self.video_vae
        self.manager.bring("video encoder")
        return vae.encode(pixels.to(self.device, self.dtype))

    def encode_audio(self, waveform: Tensor, sample_rate_hz: int) -> Tensor:
        sound = resample(to_stereo(waveform.float().to(self.device)), sample_rate_hz, MEL_RATE_HZ)
        vae = self.audio_vae
        self.manager.bring("audio VAE")
        return vae.encode(log_mel(sound)).to(self.dtype)

    def upsample(self, role: str, latents: Tensor) -> Tensor:
        return upsample_latents(latents, self.upsampler(role), self.video_vae.per_channel_statistics)

    def renew(self) -> None:
        if self._replaced():
            self.close()
            self._open()
        self._loras.adaptation = Adaptation(contents=self._contents)

    def check_files(self) -> None:
        changed = self._replaced() if self._in_files else []
        if changed:
            raise WeightsError(
                f"{changed[0]} was replaced while a clip was made from it; make the clip again"
            )

    def _replaced(self) -> list[Path]:
        """The model's files that hold something else than when they were read."""
        found = self.model.contents
        return [path for path, content in self._contents.items() if found.get(path, content) != content]

    @property
    def adaptation(self) -> Adaptation:
        return self._loras.adaptation

    def attach(self, paths: Sequence[str]) -> list[Attached]:
        return self._loras.attach(paths)

    def adapt(self, loras: Sequence[LoraUse], video: Tensor | None, audio: Tensor | None) -> None:
        self._loras.adapt(loras, video, audio)

    def restore(self, adaptation: Adaptation) -> None:
        if adaptation.contents is not None and adaptation.contents != self._contents:
            raise RequestError("the model's files were replaced while this clip was made; make it again")
        self._loras.restore(adaptation)

    def damaged(self) -> str | None:
        for name, weight in self._weights():
            if weight.is_floating_point() and not finite(weight):
                return name
        return None

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight of the parts that were built, from its file where it is in no memory."""
        with Tensors() as files:
            for part, module in self._built_modules():
                of_part = self._tensors.get(cast(Part, part), {})
                stored = self._gemma_tensors if part == "text encoder" else of_part
                for key, weight in (*module.named_parameters(), *module.named_buffers()):
                    if not weight.is_meta:
                        yield f"{part}.{key}", weight
                    elif key in stored:
                        yield f"{part}.{key}", files.value(stored[key], torch.float32, torch.device("cpu"))

    def _built_modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield from self._text_parts.items()
        if "text_encoder" in vars(self):
            yield "text encoder", self.text_encoder.gemma.model
        for name in BUILT:
            if isinstance(module := vars(self).get(name), nn.Module):
                yield name, module
        yield from self._upsamplers.items()

    @cached_property
    def preview_vae(self) -> TinyDecoder | LinearPreview:
        """The model's tiny VAE; without one, a linear map fitted to the decoder."""
        file = self.model.extra("preview")
        if file.num_bytes is not None:
            return load_preview(file.path, device=self.device)
        vae = self.video_vae
        self.manager.bring("video decoder")
        return LinearPreview.fitted(vae)

    def preview_video(self, latents: Tensor) -> Tensor:
        return self.preview_vae.decode(latents)

    def decode_video(self, latents: Tensor) -> Tensor:
        vae = self.video_vae
        self.manager.bring("video decoder")
        return vae.decode(latents)

    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        vae = self.video_vae
        self._make_room()
        self.manager.bring("video decoder")
        if self.residency.decode == "whole":
            return iter((vae.decode(latents),))
        return vae.decode_stream(latents)

    def takes(self, residency: Residency, storage: Storage) -> bool:
        """Whether these parts can go on under another residency, which they then do: weights stay put."""
        alike = replace(residency, decode=self.residency.decode) == self.residency
        if alike and storage == self.storage:
            self.residency = residency
            return True
        return False

    def decode_audio(self, latents: Tensor, num_samples: int | None = None) -> Tensor:
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

    def _load(
        self, part: Part, kind: type[Module], dtype: torch.dtype | None = None, storage: Storage = "full"
    ) -> Module:
        build = builder(part, self._tensors, self._config)
        if self._in_files:
            module, _ = open_part(build, self._tensors, part)
        else:
            place: dict[str, Any] = {"dtype": dtype or self.dtype, "device": self._home}
            with _timed(part):
                module = load_part(build, self._tensors, part, storage=storage, **place)
        assert isinstance(module, kind)
        return module

    def _streamed(
        self,
        module: nn.Module,
        tensors: PartTensors,
        blocks: str,
        residency: Residency,
        storage: Storage = "full",
    ) -> Streamed:
        place: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        log.info("%s of a %s are streamed, policy %s", blocks, type(module).__name__, residency.policy)
        return stream_from_files(module, tensors, blocks, residency, storage=storage, **place)

    def _speed_up(self, module: nn.Module) -> None:
        """Put on a part what is faster on this device."""
        if self.device.type == "cpu":
            taken = sorted(onednn.apply(module, self.dtype))
        else:
            taken = [*cuda.speed_up(module, self.device, self.dtype)]
        log.info("fast paths of %s: %s", type(module).__name__, ", ".join(taken) or "none")

    def _make_room(self) -> None:
        """Give up recorded steps if their memory may be wanted for decoding; one more costs little."""
        if self._recorded is not None and self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            if free < FREE_SHARE_TO_DECODE * total:
                self._recorded.forget()
                torch.cuda.empty_cache()

    def close(self) -> None:
        """Stop the threads that stream, and give up all that is built; what is used later is built again."""
        self.manager.close()
        for name in (*BUILT, "_encoder_files"):
            vars(self).pop(name, None)
        self._text_parts.clear()
        self._upsamplers.clear()
        self._recorded = None
        self._loras = RunLoras(_Adapted(self), self._tensors)
        gc.collect()  # modules and their hooks hold each other, and their memory is wanted now

    @property
    def _home(self) -> torch.device:
        """Where a part is built."""
        return torch.device("cpu") if self._moves else self.device

    def _manage(
        self,
        name: str,
        module: nn.Module,
        stored: PartTensors,
        *,
        calls: nn.Module | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Have the manager move a part, if parts move, or read it from its files for its turn."""
        if self._in_files:
            offloaded = OffloadedFile(module, stored, dtype or self.dtype, self.device)
            self.manager.add(name, offloaded, calls=calls)
        elif self._moves:
            self.manager.add(name, OffloadedModule([module], self.device), calls=calls)


def report_on(lora: Path, model: ModelSet) -> AdapterReport:
    """What a LoRA would do to a model; reads of the model its headers and the weights that are measured.

    Raises WeightsError for a file that is no LoRA of this model or changes nothing.
    """
    from soundstage.lora.adapters import Adapters
    from soundstage.lora.files import read_lora

    files = [read_header(path) for path in model.weights_files]
    stored, config = find_parts(files), model_config(files)
    names: tuple[Part, ...] = ("transformer", *TEXT_PARTS)
    modules = {name: open_part(builder(name, stored, config), stored, name)[0] for name in names}
    return Adapters(modules, stored=stored).add(lora.name, read_lora(lora))


class _Adapted(Mapping[Part, nn.Module]):
    """What LoRAs go on: each part is built when the first of them has a layer there."""

    def __init__(self, parts: LoadedParts) -> None:
        self._parts = parts

    def __getitem__(self, part: Part) -> nn.Module:
        if part in TEXT_PARTS:
            return self._parts.text_part(part)
        if part == "transformer":
            return self._parts.transformer
        raise KeyError(part)

    def __iter__(self) -> Iterator[Part]:
        yield "transformer"
        yield from TEXT_PARTS

    def __len__(self) -> int:
        return 1 + len(TEXT_PARTS)


def _processor(device: torch.device) -> str:
    """Processors round differently, and so does another number of threads."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


@contextmanager
def _timed(part: str) -> Iterator[None]:
    """Log how long a part takes to be read."""
    began = time.perf_counter()
    yield
    log.info("%s is read in %.2f s", part, time.perf_counter() - began)
