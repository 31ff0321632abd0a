"""Jobs of a server: their store, queue, files and keys, and the worker that makes them. Loads no torch.

service.Jobs is the one door for every interface; views.py has what goes in and comes out.
"""
