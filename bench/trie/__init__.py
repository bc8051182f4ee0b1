"""Measures the trie and the first draft."""
