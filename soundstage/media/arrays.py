"""Arrays of pictures and sounds, as every file of this room takes and returns them."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3)
Frames = NDArray[np.uint8]  # (F, H, W, 3)
Light = NDArray[np.float32]  # (H, W, 3): linear, of BT.709 primaries, 1 is diffuse white
LightFrames = NDArray[np.float16]  # (F, H, W, 3): the same
Waveform = NDArray[np.float32]  # (channels, n)


def fit_audio(waveform: Waveform, num_samples: int) -> Waveform:
    """Pad samples (2, n) with silence, or cut them at the end, to (2, num_samples)."""
    if waveform.shape[1] >= num_samples:
        return waveform[:, :num_samples]
    return np.pad(waveform, ((0, 0), (0, num_samples - waveform.shape[1])))
