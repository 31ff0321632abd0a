"""Prompts before they are encoded: parts with times, and the words a model knows."""
