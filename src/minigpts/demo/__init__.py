"""A page on which the exported file answers in the browser: what it serves, and the server."""
