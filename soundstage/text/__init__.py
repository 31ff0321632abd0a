"""Prompts to contexts: Gemma 3 run through transformers, then the projection and connectors."""
