"""What this machine can do: what it has, what clips need on it, how fast it is."""
