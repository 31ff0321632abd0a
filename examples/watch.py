"""Show how far a clip is, save its previews, and give up after so many seconds.

python examples/watch.py "A red ball bounces." 60
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import CancelledError

from PIL import Image

import soundstage as ss


def watch(stage: ss.Engine, prompt: str, patience_s: float) -> ss.Clip | None:
    """Return the clip, or None if it took longer. preview.png shows how it looks meanwhile."""
    handle = stage.submit(prompt, preview_every=1)
    limit = threading.Timer(patience_s, handle.cancel)
    limit.start()
    try:
        for event in handle:
            if isinstance(event, ss.Preview):
                Image.fromarray(event.frames[0]).save("preview.png")
            told = handle.progress
            print(f"{told.fraction:4.0%} {told.phase} {told.step or ''}")
        return handle.result()
    except CancelledError:
        return None
    finally:
        limit.cancel()


if __name__ == "__main__":
    clip = watch(ss.load("nano"), sys.argv[1], float(sys.argv[2]))
    print("given up" if clip is None else clip.save("watched.mp4"))
