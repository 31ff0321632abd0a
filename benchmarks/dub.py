"""Measure new speech by the recipe `dub` on nano: two passes, the first at half size.

    python -m benchmarks.dub --size 256x256 --cases 8

The cases are those of `soundstage nano evaluate --section dub`, and so are the meters.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import soundstage as ss
from soundstage.nano.evaluation.capabilities import SECTIONS
from soundstage.nano.evaluation.capabilities.case import Shown
from soundstage.nano.evaluation.measure import Outcome
from soundstage.request.request import Request

LORA = Path(__file__).parents[1] / "examples" / "dub-nano.safetensors"
SECTION = SECTIONS["dub"]


def main() -> None:
    """Print what was right of how many, for each row of the section."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--cases", type=int, default=8)
    words = parser.parse_args()
    stage = ss.load("nano")
    hits: dict[str, int] = {}
    totals: dict[str, int] = {}
    for case in SECTION.cases(words.cases, 0):
        asked = case.asks[0]
        assert isinstance(asked, Request)
        fields = {name: getattr(asked, name) for name in asked.model_fields_set}
        more = {"size": words.size, "recipe": "dub", "loras": [str(LORA)]}
        clip = stage.generate(Request(**{**fields, **more}))
        shown = Shown(clip.frames, clip.waveform)
        # The section's second way, without the clip, is no dub: its rows are left out.
        rows = SECTION.measure(case, [shown, shown])
        for row in SECTION.rows[: len(SECTION.rows) // 2]:
            if row.name in rows:
                found = rows[row.name]
                assert isinstance(found, Outcome)
                hits[row.name] = hits.get(row.name, 0) + found.hits
                totals[row.name] = totals.get(row.name, 0) + found.total
    for name, total in totals.items():
        print(f"{hits[name]} of {total}  {name}")


if __name__ == "__main__":
    main()
