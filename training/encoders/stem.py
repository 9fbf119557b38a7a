"""The first convolution: torchvision's or timm's own, a smaller one, or one that sees a mask.

Shapes: B batch, C channels, O output channels, H W pixels, k side of a kernel.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.architectures import first_line, stem_name
from pipeline.core.errors import InputError
from pipeline.core.progress import say
from pipeline.images.pixel_format import RGB
from training.views.fills import Fill
from training.views.inputs import EncoderInputs
from training.views.spec import ViewSpec

MARGIN = 2
"""A 3 x 3 kernel stands at rows and columns 2 to 4 of a 7 x 7 one."""
PROBE_SIZE = 128


class PartialConv2d(nn.Conv2d):
    """A convolution that renormalises by the visible pixels (Liu et al., arXiv 1804.07723).

    y = W * (x . visible) * (pixels in the window / visible pixels in the window) + b, and 0 where
    a window has no visible pixel. The channels of a pixel count apart where the mask has them all.

    Departure from the paper: pixels of the padding count neither as visible nor as hidden (the
    paper: hidden). So without a mask this is the plain convolution of the same parameters.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolves a view [B, C, H, W], or one that carries its mask (`with_mask`)."""
        if input.shape[1] == self.in_channels:
            return super().forward(input)
        view_BCHW, mask_BCHW = input.tensor_split((self.in_channels,), dim=1)
        hidden = mask_BCHW.bool()
        # Not a product with 0, so that even what is not finite contributes nothing.
        seen_BCHW = view_BCHW.masked_fill(hidden, 0)
        product_BOhw = functional.conv2d(
            seen_BCHW, self.weight, None, self.stride, self.padding, self.dilation
        )
        share_B1hw = functional.avg_pool2d(
            1 - mask_BCHW.mean(dim=1, keepdim=True),
            self.kernel_size,
            self.stride,
            self.padding,  # type: ignore[arg-type]  # never a word: see `see_masks`
            count_include_pad=False,
        )
        anything = share_B1hw > 0
        scale_B1hw = torch.where(anything, 1 / share_B1hw, 0).to(product_BOhw.dtype)
        result_BOhw = product_BOhw * scale_B1hw
        if self.bias is None:
            return result_BOhw
        return result_BOhw + self.bias.to(product_BOhw.dtype)[:, None, None] * anything


def see_masks(network: nn.Module, architecture: str) -> None:
    """Make the first convolution a partial one, in place; its parameters stay as they are.

    Raises:
        InputError: the first convolution is of a special kind, or others see the view as well.
    """
    stem = network.get_submodule(stem_name(network))
    plain = (
        type(stem) is nn.Conv2d
        and (stem.groups, stem.dilation, stem.padding_mode) == (1, (1, 1), "zeros")
        and not isinstance(stem.padding, str)
    )
    refused = (
        f"stem partial does not go with {architecture}: its first convolution "
        f"({stem_name(network)}) {{}}: wanted a plain convolution that alone sees the view"
    )
    if not plain:
        raise InputError(refused.format(f"is a {stem}"))
    assert isinstance(stem, nn.Conv2d)
    stem.__class__ = PartialConv2d
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, stem.in_channels + 1, PROBE_SIZE, PROBE_SIZE))
    except RuntimeError as error:  # another module got the mask's channel
        raise InputError(refused.format(f"is not the only one ({first_line(error)})")) from error
    finally:
        for module, mode in modes:
            module.training = mode


def with_mask(view_BCHW: Tensor, mask_BCHW: Tensor) -> Tensor:
    """A view with its mask as further channels, so that one tensor passes shuffles and wrappers.

    The view is float [B, C, H, W], where the values of masked pixels do not matter; the mask bool,
    [B, 1 or C, H, W]. Returns [B, C + 1 or 2 C, H, W] of the view's dtype and memory format.
    """
    carried = torch.cat((view_BCHW, mask_BCHW.to(view_BCHW.dtype)), dim=1)
    if view_BCHW.is_contiguous(memory_format=torch.channels_last):
        return carried.contiguous(memory_format=torch.channels_last)
    return carried


def shrink_stem(network: nn.Module, architecture: str) -> None:
    """Put a 3 x 3 convolution of stride 2 in the place of the stem's 7 x 7 of stride 2.

    Centred in a kernel of 7 x 7 zeros it is the same function, and is exported so.

    Raises:
        InputError: the network's stem is not a plain 7 x 7 convolution of stride 2.
    """
    name = stem_name(network)
    stem = network.get_submodule(name)
    assert isinstance(stem, nn.Conv2d)
    if not _is_large(stem):
        raise InputError(
            f"stem small does not go with {architecture}, whose first convolution is a "
            f"{type(stem).__name__} of {stem.kernel_size[0]} x {stem.kernel_size[1]}, stride "
            f"{stem.stride[0]}: small puts 3 x 3 in the place of a Conv2d of 7 x 7, stride 2 "
            "(ResNets, DenseNets); use stem standard"
        )
    channels, has_bias = stem.in_channels, stem.bias is not None
    small = nn.Conv2d(channels, stem.out_channels, 3, stride=2, padding=1, bias=has_bias)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, small)


def _is_large(stem: nn.Module) -> bool:
    """Whether a convolution is the plain 7 x 7 of stride 2 that a small stem replaces."""
    if type(stem) is not nn.Conv2d:
        return False
    shape = (stem.kernel_size, stem.stride, stem.padding, stem.dilation, stem.groups)
    return shape == ((7, 7), (2, 2), (3, 3), (1, 1), 1)


def has_small_stem(network: nn.Module) -> bool:
    """Whether a plain network has an exported small stem: 7 x 7, zero around its centre."""
    stem = network.get_submodule(stem_name(network))
    assert isinstance(stem, nn.Conv2d)
    return _is_large(stem) and is_padded(stem.weight)


def is_padded(kernel: Tensor) -> bool:
    """Whether a kernel [O, C, 7, 7] is zero around its centre."""
    return torch.equal(pad_kernel(centre_of(kernel)), kernel)


def fit_stem(state: Mapping[str, Tensor], network: nn.Module, *, source: str) -> dict[str, Tensor]:
    """Weights, as the library names them, with an exported small stem cut to 3 x 3 if it must be.

    `network` takes them; `source` is for messages. Where it takes other channels than RGB, each has
    3 / C times the mean of the three kernels: equal channels of any number give equal sums.

    Raises:
        InputError: a full 7 x 7 kernel for a small stem.
    """
    name, fitted = f"{stem_name(network)}.weight", dict(state)
    kernel, wanted = fitted.get(name), network.get_parameter(name)
    if kernel is not None and (kernel.shape[-1], wanted.shape[-1]) == (7, 3):
        if not is_padded(kernel):
            raise InputError(
                f"{source}: {name!r} is a full {list(kernel.shape)} kernel and does not fit a "
                f"small stem {list(wanted.shape)}: use the standard stem"
            )
        fitted[name] = kernel = centre_of(kernel)
    channels = wanted.shape[1]
    if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == RGB != channels:
        say(f"{source}: the first convolution is averaged over RGB for each of {channels} channels")
        mean = kernel.mean(dim=1, keepdim=True) * (RGB / channels)
        fitted[name] = mean.repeat(1, channels, 1, 1)
    return fitted


def pad_kernel(kernel: Tensor) -> Tensor:
    """A kernel [O, C, 3, 3] in the centre of zeros [O, C, 7, 7]."""
    return functional.pad(kernel, (MARGIN,) * 4)


def centre_of(kernel: Tensor) -> Tensor:
    """The centre [O, C, 3, 3] of a kernel [O, C, 7, 7]."""
    return kernel[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]


def join_masks(
    inputs: EncoderInputs,
    views: Sequence[ViewSpec],
    join: Callable[[Tensor, Tensor], Tensor],
) -> EncoderInputs:
    """The inputs with each view joined with its mask, for a network that sees masks.

    Views without a mask are joined with an empty one, so that all have as many channels; so are
    views with swapped patches, whose pixels are those of an image. `join` takes view and bool
    mask, [B, C or 1, H, W].
    """
    masked = {
        view.name: inputs.masks[view.name]
        for view in views
        if view.masker is not None and isinstance(view.fill, Fill)
    }
    channels = next(iter(masked.values())).shape[1] if masked else 1
    joined = {}
    for name, image_BCHW in inputs.views.items():
        batch, _, *size = image_BCHW.shape
        empty = torch.zeros(batch, channels, *size, dtype=torch.bool, device=image_BCHW.device)
        joined[name] = join(image_BCHW, masked[name][:batch] if name in masked else empty)
    return inputs._replace(views=joined)
