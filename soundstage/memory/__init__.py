"""Where weights are while they are not used."""
