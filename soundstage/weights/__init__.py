"""Weights files: what is in them, what it is called here, and how it gets into a module."""
