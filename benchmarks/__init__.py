"""Measure Soundstage and its peers on the same weights and the same machine; each file is one command."""
