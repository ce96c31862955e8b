"""Calibration of guides, reference posteriors and predictive draws."""
