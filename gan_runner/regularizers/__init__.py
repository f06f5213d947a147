"""What a regularizer does to a loss, to weights or to a gradient."""
