"""Files and addresses from outside a server: fetched by rule, and looked into before they are used.

Loads no torch and no web framework.
"""
