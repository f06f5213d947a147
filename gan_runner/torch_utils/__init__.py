"""Helpers for PyTorch that know nothing of GANs."""
