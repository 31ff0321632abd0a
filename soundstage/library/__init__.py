"""Which files there are, and which model they make."""
