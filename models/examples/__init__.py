"""Small Pyro models with known posteriors."""
