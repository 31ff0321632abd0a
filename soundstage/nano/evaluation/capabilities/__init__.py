"""Measure each capability on held-out cases of the world, in a section of its own.

case.py      the mechanism: cases and their asks, makers, a section's report
compare.py   comparisons of pictures and sounds
followed.py  what in-context LoRAs follow: edges, depth, tracks, inpaint, outpaint, ungrade
given.py     image, reference, retake, extend
heard.py     audio to video, video to audio, sound asked against
named.py     a character by its name
spoken.py    LoRAs of speech: identity, dub, a voice by its name
timing.py    timed prompts, long take
making.py    fast, upscale, smooth
"""

from soundstage.nano.evaluation.capabilities.case import Section
from soundstage.nano.evaluation.capabilities.followed import FOLLOWED
from soundstage.nano.evaluation.capabilities.given import EXTEND, IMAGE, REFERENCE, RETAKE
from soundstage.nano.evaluation.capabilities.heard import AGAINST_SOUND, SILENT, TRACK
from soundstage.nano.evaluation.capabilities.making import FAST, SMOOTH, UPSCALE
from soundstage.nano.evaluation.capabilities.named import CHARACTER
from soundstage.nano.evaluation.capabilities.spoken import SPOKEN_SECTIONS
from soundstage.nano.evaluation.capabilities.timing import LONG_TAKE, TIMED

SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        IMAGE,
        REFERENCE,
        RETAKE,
        EXTEND,
        TRACK,
        SILENT,
        AGAINST_SOUND,
        TIMED,
        LONG_TAKE,
        FAST,
        UPSCALE,
        SMOOTH,
        CHARACTER,
        *SPOKEN_SECTIONS,
        *FOLLOWED,
    )
}
