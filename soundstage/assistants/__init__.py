"""Tools for assistants: `soundstage mcp`, over an engine of this process or over a server."""
