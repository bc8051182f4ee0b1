"""Draft trees: where they come from, how many nodes to verify, what is accepted."""
