"""Training nano from nothing: one loop, and a recipe per part."""
