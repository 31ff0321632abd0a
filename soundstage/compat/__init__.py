"""Other programs' spellings of the engine: diffusers' pipelines, Scope's configs, ComfyUI's workflows."""
