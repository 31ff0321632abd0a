"""LoRA files, and their adapters on a model while it runs."""
