"""From noise to latents: sigma lists, samplers, guidance and the one loop that uses them.

`schedules` and `scales` are plain data and load no torch, so a plan can be made with them alone.
"""
