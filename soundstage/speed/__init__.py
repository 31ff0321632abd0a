"""What makes the plain modules of `model/` fast on the machine at hand, put on them from outside."""
