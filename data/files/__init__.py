"""Data in a user's files: arrays, tables, items of torch data sets, reference posteriors."""
