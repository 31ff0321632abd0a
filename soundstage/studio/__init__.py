"""The studio: a page over the HTTP API, as static files, and the routes that serve them."""
