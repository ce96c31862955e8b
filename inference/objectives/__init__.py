"""Objectives and their gradient estimators."""
