"""Datasets: one function each, named as on the command line, that returns a `gan_runner.datasets.data.Data`."""
