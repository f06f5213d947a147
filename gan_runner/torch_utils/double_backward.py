"""The gradient of a network at its input, to be differentiated again: a double backward pass without its waste.

PyTorch's own is right for every layer, and slow for the two that a discriminator is made of:

- An activation of straight pieces has second derivative 0, and autograd carries those zeros, as numbers, back through
  all layers of the forward pass. Here nothing is carried: half of the second backward pass falls away.
- The gradient in the weights of a convolution becomes a convolution whose kernel is as large as the feature map, for
  which no library has a fast kernel (and oneDNN a wrong one in bfloat16: pytorch#163347). Here it is the one that
  every first backward pass has.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten


def gradient_at(samples: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of Σ function(samples) at the samples, shaped like them; it can be differentiated in the weights.

    The samples' own graph is left behind: it cannot be differentiated in what made them.
    """
    samples = samples.detach().requires_grad_()
    with Layers():
        values = function(samples)
    (gradient,) = torch.autograd.grad(values.sum(), samples, create_graph=True)
    return gradient


class Layers(TorchFunctionMode):
    """While it is entered, the layers below take the place of PyTorch's, whoever calls them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called for every function of torch."""
        layer = func if torch.compiler.is_compiling() else LAYERS.get(func, func)
        return layer(*args, **kwargs or {})


# --- in the place of torch's functions, with their arguments
#
# An activation of straight pieces is x times the slope at x, as its backward function is the gradient times that slope:
# with x in the gradient's place, that function is the activation itself, and the slope a constant. What is kept for the
# backward pass is what PyTorch keeps, the result of a ReLU and the input of a LeakyReLU: the other may be overwritten.


def relu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002 -- its name there
    """`F.relu`."""
    if inplace:
        return Overwriting.apply(input, F.relu_, partial(aten.threshold_backward, threshold=0))
    return aten.threshold_backward(input, F.relu(input.detach()), 0)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:  # noqa: A002
    """`F.leaky_relu`."""
    slope = float(negative_slope)
    if inplace:
        backward = partial(aten.leaky_relu_backward, negative_slope=slope, self_is_result=True)
        return Overwriting.apply(input, partial(F.leaky_relu_, negative_slope=slope), backward)
    return aten.leaky_relu_backward(input, input.detach(), slope, False)


class Overwriting(Function):
    """An activation of straight pieces in place, by its function there and its backward function of the result."""

    @staticmethod
    def forward(x: Tensor, activate: Callable[[Tensor], Tensor], backward: Callable[..., Tensor]) -> Tensor:
        return activate(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the result, as PyTorch does."""
        x, _, ctx.its_backward = inputs
        ctx.mark_dirty(x)
        ctx.save_for_backward(output.detach())

    @staticmethod
    def vmap(info: Any, axes: Any, x: Tensor, *functions: Callable[..., Tensor]) -> tuple[Tensor, int]:
        """Of all networks at once: it looks at each value alone."""
        return Overwriting.apply(x, *functions), axes[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (result,) = ctx.saved_tensors
        return ctx.its_backward(gradient, result), None, None


def conv2d(  # noqa: PLR0917 -- as many as `F.conv2d` has
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv2d`."""
    kind, is_complex = input.device.type, input.is_complex() or weight.is_complex()
    if input.ndim != 4 or is_complex or not torch.amp.is_autocast_available(kind):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if isinstance(padding, str):
        input, padding = padded(input, weight, padding, pair(dilation))  # noqa: A001
    tensors = [input, weight, bias]
    if torch.is_autocast_enabled(kind):  # what it does to a convolution, which must not be done within a layer of ours
        dtype = torch.get_autocast_dtype(kind)
        tensors = [each if each is None or each.dtype == torch.float64 else each.to(dtype) for each in tensors]
    return Convolution.apply(*tensors, Grid(pair(stride), pair(padding), pair(dilation), groups))


def padded(samples: Tensor, weight: Tensor, padding: str, dilation: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
    """What "same" and "valid" mean in numbers, with samples to which the odd row and column are added."""
    kernel = weight.shape[2:]
    missing = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    if any(each % 2 for each in missing):
        samples = F.pad(samples, [0, missing[1] % 2, 0, missing[0] % 2])
    return samples, [each // 2 for each in missing]


class Grid(NamedTuple):
    """How a convolution's kernel moves: rows and columns each."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


def pair(size: int | Sequence[int]) -> Sequence[int]:
    """Rows and columns, of one number for both or of two."""
    sizes = tuple(size) if isinstance(size, Sequence) else (size,)
    return sizes * 2 if len(sizes) == 1 else sizes


LAYERS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.relu: relu,
    torch.relu: relu,
    F.leaky_relu: leaky_relu,
    F.conv2d: conv2d,
}


class Convolution(Function):
    """A convolution (N, C, H, W) -> (N, C', H', W') whose backward pass is, towards the input, a layer of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Grid) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, weight, bias, *grid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep all that the gradients need."""
        x, weight, bias, ctx.grid = inputs
        ctx.bias_size = None if bias is None else bias.shape
        ctx.save_for_backward(x, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Any, ...]:
        """The gradients that are wanted; that of the input alone is a transposed convolution, which has derivatives."""
        if gradient is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.grid
        wanted = [is_wanted(node) for node, _ in ctx.next_functions] + [False] * (ctx.bias_size is None)
        if torch.is_grad_enabled() and wanted == [True, False, False]:
            sides = zip(x.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
            left_over = [n + 2 * p - d * (k - 1) - 1 - (m - 1) * s for n, m, k, s, p, d in sides]
            with torch.autocast(x.device.type, enabled=False):  # the types are those of the forward pass
                its = F.conv_transpose2d(gradient, weight, None, stride, padding, left_over, groups, dilation)
            return its, None, None, None
        return *aten.convolution_backward(
            gradient, x, weight, ctx.bias_size, stride, padding, dilation, False, [0, 0], groups, wanted
        ), None


def is_wanted(node: torch.autograd.graph.Node | None) -> bool:
    """Whether the backward pass under way goes on to a node; PyTorch's own layers ask the same.

    A function of Python is told what requires grad, not what is asked for: towards the samples it would compute the
    gradients of all weights as well.
    """
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # it is a leaf that the gradient is asked for
        return True
