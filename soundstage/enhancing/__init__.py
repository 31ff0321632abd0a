"""Prompts enhanced by Gemma 3, by a server's model, or by rules: what changed, and what is left to mend."""
