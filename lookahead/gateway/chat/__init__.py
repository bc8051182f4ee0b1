"""/v1/chat/completions: conversations with tools."""
