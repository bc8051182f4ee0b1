"""Conversations: tools in the prompt, calls of tools in the output, and the parts of an answer."""
