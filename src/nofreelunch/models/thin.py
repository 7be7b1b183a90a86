"""Convolutions of images with one or two channels, differentiated at full speed.

The input gradient is a convolution with as many outputs as the image has channels: one, for digits, where processors
work on sixteen at a time. So the gradients of a square of 4 x 4 neighbouring pixels are computed as 16 channels of one
convolution of stride 4 (its kernels are the original one, shifted), then put in their places.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_SIDE = 4


class _ThinConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        reach = [size - 1 - pad for size, pad in zip(weight.shape[2:], ctx.padding, strict=True)]
        phases = F.conv2d(grad, _shifted(weight), stride=_SIDE, padding=reach)
        return F.pixel_shuffle(phases, _SIDE), None, None, None


def _shifted(weight: Tensor) -> Tensor:
    """Kernels (channels * 16, filters, height + 3, width + 3): the flipped ones, one for each place in the square."""
    filters, channels, height, width = weight.shape
    flipped = weight.flip(2, 3).transpose(0, 1)
    kernels = weight.new_zeros(channels, _SIDE, _SIDE, filters, height + _SIDE - 1, width + _SIDE - 1)
    for row in range(_SIDE):
        for column in range(_SIDE):
            kernels[:, row, column, :, row : row + height, column : column + width] = flipped
    return kernels.flatten(0, 2).contiguous(memory_format=torch.channels_last)


def thin_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """`conv2d(x, weight, bias, padding=padding)` with a cheaper gradient to x, and none to the weights.

    Args:
        x: images (n, c, h, w) with small c; where h or w is no multiple of 4 the plain convolution is used.
        weight: (filters, c, height, width), frozen.
        bias: (filters,), frozen.
        padding: zeros on each side, less than the kernel's height and width.
    """
    x = x.to(weight.dtype)
    if x.shape[2] % _SIDE or x.shape[3] % _SIDE:
        return F.conv2d(x, weight, bias, padding=padding)
    result: Tensor = _ThinConvolution.apply(x, weight, bias, padding)
    return result


def is_thin(layer: nn.Module) -> bool:
    """Whether `thin_convolution` can do the work of a layer, and pays."""
    return (
        type(layer) is nn.Conv2d
        and layer.in_channels <= 2
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(pad < size for pad, size in zip(layer.padding, layer.kernel_size, strict=True))
    )


def use_thin_convolutions(graph: fx.GraphModule) -> None:
    """Replace the layers of the graph that `is_thin`, in place; their weights stay where they are."""
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not is_thin(graph.get_submodule(node.target)):
            continue
        layer: Any = graph.get_submodule(node.target)
        with graph.graph.inserting_before(node):
            weight = graph.graph.get_attr(f"{node.target}.weight")
            bias = None if layer.bias is None else graph.graph.get_attr(f"{node.target}.bias")
            new = graph.graph.call_function(thin_convolution, (*node.args, weight, bias, layer.padding))
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
