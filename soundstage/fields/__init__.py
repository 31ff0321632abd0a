"""Records of fields: checked in one way, and described beside each field. Loads no torch."""
