"""A request: its fields, inputs, recipe and defaults, checked. Loads no torch."""
