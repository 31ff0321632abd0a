"""Nano: a procedural world, the small model trained on it, and the measurement of what it makes."""
