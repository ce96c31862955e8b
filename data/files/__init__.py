"""Data from files: arrays, tables, items of torch data sets, and reference posteriors."""
