"""What is asked: a request, its inputs, its recipe. Loads no torch."""
