"""The buffers of modules: kept as they are while something is tried, or kept where they lie while they change."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Places = list[tuple[dict[str, Tensor | None], str, Tensor]]


@contextmanager
def unchanged_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Afterwards the buffers of the modules, and of the modules within them, are what they were before."""
    before = [(place, name, buffer, buffer.clone()) for place, name, buffer in places(modules)]
    try:
        yield
    finally:
        with torch.no_grad():
            for place, name, buffer, value in before:
                buffer.copy_(value)
                place[name] = buffer


@contextmanager
def buffers_in_place(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Buffers that are replaced by new tensors are put back, with the new values: a CUDA graph finds them there."""
    before = places(modules)
    try:
        yield
    except BaseException:
        for place, name, buffer in before:
            place[name] = buffer
        raise
    with torch.no_grad():
        for place, name, buffer in before:
            if (new := place[name]) is not buffer and new is not None:
                buffer.copy_(new)
                place[name] = buffer


def places(modules: Iterable[nn.Module]) -> Places:
    """Where each buffer stands: a module's dictionary of buffers, the name in it, and the tensor."""
    inner = [part._buffers for module in modules for part in module.modules()]
    return [(place, name, buffer) for place in inner for name, buffer in place.items() if buffer is not None]
