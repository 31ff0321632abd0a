"""Data to train on: a folder or table of clips, pictures and sounds becomes buckets of encoded latents.

encoded.py     the encoded dataset: what `encode` writes and training reads
index.py       its samples and their encoders, without PyTorch
identity.py    which encoders made it, known by their weights
"""
