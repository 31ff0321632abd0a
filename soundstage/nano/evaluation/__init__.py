"""Measure from pixels and samples alone how well a clip follows its caption.

    backdrop.py  background and camera move: the whole picture against rendered hypotheses
    tracks.py    foreground: one track per colour, in world coordinates
    shapes.py    the shape of a track: its silhouette and shading against rendered templates
    actions.py   the motion of a track and its times: against simulated motions
    picture.py   the four together: frames -> Seen
    sound.py     samples -> Heard
    measure.py   Seen and Heard against the scene that was asked for
    report.py    many clips: rates with intervals, as table, JSON and Markdown
    text.py      the text encoder: perplexities and probes on captions
    codecs.py    the loss of the video VAE and of the audio path

Seen and Heard are decided without the scene that was asked for. tests/behavior/test_meter.py holds the
meter to the world's own clips, clean and degraded.
"""
