"""The command line: thin commands over what Python users call."""
