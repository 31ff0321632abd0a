"""Other programs' spellings of this one."""
