"""Diagnostics of a machine: its parts, what clips need on it, how fast it is."""
