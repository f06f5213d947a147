"""Files: run directories, checkpoints, the cache."""
