"""Review finished clips: faults that need no reference, and the policy of their sound. Loads no torch."""
