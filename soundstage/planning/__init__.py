"""From a request to its plan: passes, sizes, conditions, checks, cost and placement. Loads no torch."""
