"""Train and compare generative adversarial networks from one shell line."""

__version__ = "0.1.0"
