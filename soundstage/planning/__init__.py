"""From a request to its plan. Loads no torch."""
