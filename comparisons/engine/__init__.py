"""The engine of comparisons: grid, statistics, report."""
