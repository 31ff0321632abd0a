"""From a plan to its events: inputs encoded, passes run, latents decoded; the last event is a clip."""
