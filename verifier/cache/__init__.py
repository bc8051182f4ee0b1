"""Keys and values of running sequences, and the prompt rows that they share."""
