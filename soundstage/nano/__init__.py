"""Train and measure nano, a small model of a procedural world."""
