"""/v1/completions, and what its answers share with those of /v1/chat/completions."""
