"""Token ids and texts: the routes that turn one into the other, and the texts of single tokens."""
