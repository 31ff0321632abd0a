"""Models on this machine: find, identify, pull, verify and convert their files."""
