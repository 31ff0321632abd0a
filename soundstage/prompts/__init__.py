"""Prompts before they are encoded: what they ask for, and when."""
