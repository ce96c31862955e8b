"""Comparisons of prior flows and posterior flows, one module a question."""
