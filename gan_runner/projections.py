"""Projections: what is done to a network's weights after each of its updates."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import nn


@torch.no_grad()
def weight_clip(network: nn.Module, *, bound: Annotated[float, Gt(0)]) -> None:
    """Every parameter into [-bound, bound]. Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1."""
    for parameter in network.parameters():
        parameter.clamp_(-bound, bound)
