"""Fast paths put on the plain modules of `model/` from outside, for the machine at hand."""
