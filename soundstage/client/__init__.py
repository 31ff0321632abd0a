"""The client of a server: the verbs of an engine over HTTP, in one form for blocking and for asyncio.

What is said to a server is a generator of effects (talk.py), which a line carries out (lines.py): a blocking
one or one of asyncio. Needs httpx, which is loaded when a client is made.
"""
