"""The model's rule that turns sound of any number of channels into stereo. No torch."""

from __future__ import annotations

Gains = tuple[tuple[float, ...], tuple[float, ...]]

SIDE = 0.707  # -3 dB, of the centre and each surround


def stereo_gains(num_channels: int) -> Gains:
    """Return how much of each channel goes to the left and to the right.

    Mono is heard on both sides at its own level. 5.1 (L, R, C, LFE, Ls, Rs) and 7.1 (..., Lb, Rb) are folded
    down without their LFE and divided by the sum of the gains, 2.414 and 3.121, so that nothing clips. Other
    layouts become their mean on both sides. Source: docs/model/audio.md, "Waveform".
    """
    if num_channels == 2:
        return (1.0, 0.0), (0.0, 1.0)
    if num_channels not in (6, 8):
        mean = (1.0 / num_channels,) * num_channels
        return mean, mean
    pairs = num_channels // 2 - 2
    total = 1 + SIDE * (1 + pairs)
    left = (1.0, 0.0, SIDE, 0.0, *(SIDE, 0.0) * pairs)
    right = (0.0, 1.0, SIDE, 0.0, *(0.0, SIDE) * pairs)
    return tuple(gain / total for gain in left), tuple(gain / total for gain in right)
