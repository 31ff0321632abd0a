"""Films: a script becomes requests, one for each shot; shots become clips, and clips a cut film."""
