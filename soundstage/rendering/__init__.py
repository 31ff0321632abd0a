"""From a plan to its events, the last of which is a clip."""
