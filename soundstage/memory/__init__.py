"""Places of weights while they are not used: device, memory or disk; the device and the number format."""
