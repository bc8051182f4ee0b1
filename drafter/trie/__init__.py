"""The token trie and its snapshot."""
