"""Weights files: what they hold, its names here, and its way into a module."""
