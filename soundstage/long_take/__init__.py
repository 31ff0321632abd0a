"""Takes longer than a model makes at once: overlapping windows, planned as data, joined without a seam."""
