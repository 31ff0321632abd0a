"""Read and write video, sound and pictures. PyAV and Pillow are loaded by the files that need them."""
