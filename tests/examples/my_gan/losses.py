"""A loss: two functions of a view, one value per sample each."""

from torch import Tensor


class LeastSquares:
    """(D(x) - a)² + (D(G(z)) + a)²; the generator wants (D(G(z)) - a)². Mao et al. 2016, arXiv:1611.04076."""

    def __init__(self, *, target: float):
        self.target = target

    def discriminator(self, view) -> Tensor:
        return (view.real_logits - self.target).square() + (view.fake_logits + self.target).square()

    def generator(self, view) -> Tensor:
        return (view.fake_logits - self.target).square()
