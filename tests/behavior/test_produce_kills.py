"""A film of nano is killed at ten random moments: the same latents, and nothing finished is done again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.producing import Commands
from tests.unit.test_produce import Film, check_kills

pytestmark = pytest.mark.slow
LATER_S = 1.0


def test_ten_kills_of_a_film_of_nano(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "pipe", "nano")
    try:
        whole = Film(tmp_path / "whole", "nano", commands, steps=8, size="64x64")
        num_events = len(whole.produce())
        chance = random.Random(1)
        # A command that goes on has less to do, so each is killed early on, at a step of any shot.
        moments = [(chance.randrange(1, num_events // 3), chance.uniform(0, LATER_S)) for _ in range(10)]
        check_kills(Film(tmp_path / "killed", "nano", commands, steps=8, size="64x64"), whole, moments)
    finally:
        commands.close()
