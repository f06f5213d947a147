"""Sweeps: many runs of one line."""
