"""Networks: each module holds a `Generator` and a `Discriminator`, generic in height, width and channels."""
