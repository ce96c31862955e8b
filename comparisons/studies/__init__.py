"""Studies beside the questions: densities, models of data, reference posteriors."""
