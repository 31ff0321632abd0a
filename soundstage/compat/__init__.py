"""Other programs' spellings of the engine: diffusers' pipelines and Scope's configs."""
