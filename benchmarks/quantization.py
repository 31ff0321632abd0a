"""Measure what 8-bit weights cost in accuracy, by part of a block: the table of docs/lora.md.

    python -m benchmarks.quantization                       # the shipped nano, in bfloat16, on the CPU
    python -m benchmarks.quantization --model my-model --schemes fp8 int8

A forward pass runs in full weights; each layer's quantized twin sees the same inputs. Then the whole model is
quantized, and its velocities are compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.library.model_files import find_model
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.rendering.parts import ModelParts
from soundstage.weights.quantize import quantize, quantized_linear, targets
from soundstage.weights.storage import Scheme

SCHEMES: tuple[Scheme, ...] = ("fp8", "fp8-cast", "int8", "int8-dynamic")
GRID, AUDIO_TOKENS, SIGMA, FPS = (5, 4, 6), 51, 0.7, 24.0
PROMPT = "A red ball bounces on a wooden floor."

Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class LayerError:
    """Relative errors by norm: of the weights, and of the layers' results on the activations of a run."""

    weight: float
    output: float


def quantization_error(module: nn.Module, scheme: Scheme, run: Callable[[], object]) -> dict[str, LayerError]:
    """Return what quantizing would cost, by part of a block: attn1, ff, audio_to_video_attn, ...

    run: calls the module as it is, once or more; each layer's quantized twin then sees the layer's inputs.
    The module is left unchanged, and only one twin exists at a time.
    """
    squares: dict[str, Tensor] = {}  # (weight, output) x (error, total)

    def watch(name: str, linear: nn.Linear) -> Callable[..., None]:
        def compare(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            twin = quantized_linear(linear, scheme)
            pairs = (twin.quantized.dequantize(), linear.weight), (twin(inputs[0]), output)
            rows = [[(a.double() - b.double()).square().sum(), b.double().square().sum()] for a, b in pairs]
            part = name.split("transformer_blocks.")[-1].split(".")[1]
            squares[part] = squares.get(part, 0) + torch.tensor(rows)

        return compare

    handles = [linear.register_forward_hook(watch(name, linear)) for name, linear in targets(module).items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    errors = {part: (sums[:, 0] / sums[:, 1]).sqrt().tolist() for part, sums in squares.items()}
    return {part: LayerError(*values) for part, values in sorted(errors.items())}


def modalities(parts: ModelParts) -> tuple[ModalityInputs, ModalityInputs]:
    """Return the inputs of a step at one noise level: the picture and the sound of a prompt."""
    contexts = parts.encode([PROMPT])[0]
    generator = torch.Generator().manual_seed(0)

    def modality(positions: Tensor, context: Tensor | None) -> ModalityInputs:
        assert context is not None
        count, sigma = positions.shape[2], torch.tensor([SIGMA])
        latents = torch.randn(1, count, 128, generator=generator).to(parts.dtype)
        return ModalityInputs(latents, sigma, sigma.expand(1, count), positions, context)

    return (
        modality(video_positions(*GRID, FPS), contexts.video),
        modality(audio_positions(AUDIO_TOKENS), contexts.audio),
    )


def velocity_errors(model: Transformer, scheme: Scheme, run: Run) -> list[float]:
    """Quantize a model, and return how far its velocities of picture and sound are from those before."""
    with torch.no_grad():
        wanted = run()
        quantize(model, scheme)
        pairs = zip(run(), wanted, strict=True)
        return [float((a.double() - b.double()).norm() / b.double().norm()) for a, b in pairs]


def column(model: str, scheme: Scheme) -> dict[str, str]:
    """Return the errors of a scheme by part: of the weights and the results, of picture and sound."""
    parts = ModelParts(find_model(model), torch.device("cpu"), torch.bfloat16)
    run = partial(parts.transformer, *modalities(parts))
    errors = quantization_error(parts.transformer, scheme, run)
    found = {part: f"{error.weight:.1%} / {error.output:.1%}" for part, error in errors.items()}
    both = velocity_errors(parts.transformer, scheme, run)
    return found | {"velocities": " / ".join(f"{error:.1%}" for error in both)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of 8-bit weights: weights / results, by part.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=SCHEMES)
    given = parser.parse_args()
    columns = {scheme: column(given.model, scheme) for scheme in given.schemes}
    for part in ("", *next(iter(columns.values()))):
        print(f"{part:20}" + "".join(f"{found.get(part, scheme):>16}" for scheme, found in columns.items()))


if __name__ == "__main__":
    main()
