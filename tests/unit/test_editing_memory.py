"""Memory does not grow with a film's length."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from soundstage.clip import Clip
from tests.editing_clips import RATE, noise, tone

# A film of shots that dissolve, with music, room tone and burnt-in captions; prints its peak memory in MB.
PROGRAM = """
import resource, sys
from soundstage.editing import Caption, Cut, Music, RoomTone, Timeline, Transition, assemble

count = int(sys.argv[1])
kinds = [Transition("dissolve", 0.25) if i % 2 else Transition() for i in range(count)]
line = Timeline(
    cuts=tuple(Cut(source="shot.mp4", transition=kind) for kind in kinds),
    music=(Music(path="music.wav", loop=True),),
    captions=tuple(Caption(1.5 * i, 1.5 * i + 1, f"Line {i}.") for i in range(count)),
    burn_captions=True,
    room_tone=RoomTone(),
)
assemble(line, f"film{count}.mp4")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_a_minute_needs_no_more_memory_than_ten_seconds(tmp_path: Path) -> None:
    Clip(None, tone(3, 300), 24).save(tmp_path / "music.wav")
    frames = np.random.default_rng(0).integers(0, 255, (48, 180, 320, 3), dtype=np.uint8)
    Clip(frames, noise(2 * RATE, 1), 24).save(tmp_path / "shot.mp4")

    def peak_mb(count: int) -> int:
        command = [sys.executable, "-c", PROGRAM, str(count)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600)
        return int(done.stdout)

    short, long = peak_mb(5), peak_mb(30)
    assert long - short < 15
