"""What drafts are worth to a model that keeps a state."""
