"""`lookahead trie`: list, learn, export and import memories."""
