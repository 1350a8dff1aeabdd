"""Moments of weights, in float64, across ranks."""
