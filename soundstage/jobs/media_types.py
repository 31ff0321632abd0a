"""Media types of files that are no media."""

WEIGHTS_TYPE, ZIP_TYPE = "application/vnd.safetensors", "application/zip"
