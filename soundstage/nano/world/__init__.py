"""The procedural world: seeded shots with picture, stereo sound, caption and ground truth.

    scene.py     what a shot is, and how one is drawn from a seed
    motion.py    tracks and events: where everything is at each frame, and what sounds when
    render.py    pixels
    sound.py     samples
    captions.py  words

Distances are in units of the shorter side of the frame; the origin is the frame's centre at rest, x
points right and y points down. Times are seconds from the first frame.
"""
