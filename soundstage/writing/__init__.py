"""Text by a language model: behind an OpenAI-compatible server, in a folder, or the text encoder itself."""
