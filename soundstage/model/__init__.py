"""The parts of LTX-2.3 as plain single-device modules: no I/O, no device logic."""
