"""Candidates against a baseline: ratios, verdicts and doubts. No torch."""
