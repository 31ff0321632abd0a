"""Prepare the references that in-context adapters follow: pixels in, pixels out. Loads no torch."""
