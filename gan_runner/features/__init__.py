"""Networks that the metrics of images look through."""
