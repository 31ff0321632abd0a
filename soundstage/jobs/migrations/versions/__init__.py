"""The migrations, each from the one before."""
