"""Transforms of a player's gradient, between the backward pass and the optimizer's step."""

import torch
from torch import nn

from gan_runner.torch_utils.bounds import PositiveFloat
from gan_runner.torch_utils.parameters import gradient_norm, gradients, run_axes


@torch.no_grad()
def gradient_clip(network: nn.Module, *, norm: PositiveFloat | None, value: PositiveFloat | None) -> None:
    """Entries into [-value, value], then the whole gradient scaled to a norm of at most `norm`.

    Pascanu et al. 2013, arXiv:1211.5063; `torch.nn.utils.clip_grad_norm_` does the same for one run.
    """
    if value is not None:
        for gradient in gradients(network):
            gradient.clamp_(-value, value)
    if norm is not None:
        scale = (norm / (gradient_norm(network) + 1e-6)).clamp(max=1.0)  # (...,)
        for gradient in gradients(network):
            gradient.mul_(scale.reshape(*scale.shape, *[1] * (gradient.ndim - run_axes(network))))
