"""Does a clip show and sound what its caption says? Measured from pixels and samples alone.

    backdrop.py  which background, which camera move: the whole picture against rendered hypotheses
    tracks.py    what stands before it: one track per colour, in world coordinates
    shapes.py    which shape a track has: its silhouette and shading against rendered templates
    actions.py   which motion a track follows: against simulated motions, and when
    picture.py   the four together: frames -> Seen
    sound.py     samples -> Heard
    measure.py   Seen and Heard against what was asked
    report.py    many clips: rates with intervals, as table, JSON and Markdown
    text.py      how well the text encoder reads captions
    codecs.py    how much the video VAE and the audio path lose

Nothing here is told what was asked before it has decided what it sees and hears. The meter itself is
held to the world's own clips, clean and degraded, by tests/behavior/test_meter.py.
"""
