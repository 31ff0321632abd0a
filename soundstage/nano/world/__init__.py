"""Make seeded shots of a procedural world, with picture, stereo sound, caption and ground truth.

    scene.py     a shot as data, drawn from a seed
    motion.py    tracks and events: places at each frame, and times of sounds
    render.py    pixels
    sound.py     samples
    captions.py  words

Distances are in units of the shorter side of the frame; the origin is the frame's centre at rest, x
points right and y points down. Times are seconds from the first frame.
"""
