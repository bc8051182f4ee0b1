"""`lookahead loadtest`: how fast a running server is, and what drafting does for it."""
