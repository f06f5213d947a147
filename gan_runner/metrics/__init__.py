"""Metrics: how near generated samples are to real ones."""
