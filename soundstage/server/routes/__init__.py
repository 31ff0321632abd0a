"""The routes of the native API, one file for each noun. Each is thin: it asks the jobs."""
