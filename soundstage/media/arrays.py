"""Arrays of pictures and sounds, as every file of this room takes and returns them."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3)
Frames = NDArray[np.uint8]  # (F, H, W, 3)
Waveform = NDArray[np.float32]  # (channels, n)
