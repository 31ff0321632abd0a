"""The loop, its optimizers, and the noising of a batch: what every kind of training shares."""
