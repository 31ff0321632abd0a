"""Train LoRAs and small models on an encoded dataset: from a config to files that inference reads.

config.py        what a run is told: records, and their way out of a YAML file
modes.py         presets of what is made and what is given, as one table
recipes/         whole configs by name: a character, a style, a voice, ...
targets.py       which layers are trained, by named groups
kept.py          conditions of one sample, and its streams, built as inference builds them
sigmas.py        the noise levels of a batch
samples.py       the order of samples, and the batch of a step
objective.py     the loss of a batch, and the block-wise recomputing of a forward
session.py       one run: checks, weights, steps, files
"""
