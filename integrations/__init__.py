"""Soundstage in other programs."""
