"""The drafter: remembers token runs and proposes draft trees."""
