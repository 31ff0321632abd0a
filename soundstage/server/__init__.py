"""Serve clips over HTTP: the native API over `jobs/`, keys, events, webhooks, health and metrics.

`app.create_app` puts it together; routes are in `routes/`, one file for each noun.
"""
