"""Read ComfyUI workflows: the graph in a file, and the request that its LTX nodes stand for. No torch."""
