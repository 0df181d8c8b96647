"""ResNet-18 and ResNet-50, the same layer by layer as torchvision's.

All convolutions and the pooling pad as in PyTorch, `size // 2` on both sides. XLA's
'SAME' pads the two sides of an even input differently if a layer has a stride. The
network would still train, but weights could not be exchanged with PyTorch.

Module names map one to one to torchvision's:

    stem_conv, stem_norm                      conv1, bn1
    layer1_block0/{conv1, norm1, ...}         layer1.0.{conv1, bn1, ...}
    layer1_block0/downsample_{conv, norm}     layer1.0.downsample.{0, 1}

References: He et al., Deep Residual Learning for Image Recognition (arXiv 1512.03385);
torchvision/models/resnet.py; the CIFAR networks of WangFeng18/InvariancePropagation.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from invariance_propagation.errors import UserError, check_choice
from invariance_propagation.models.norm import BatchNorm

STEMS = ("imagenet", "cifar")


def _conv(filters: int, size: int, stride: int, *, dtype: DTypeLike, name: str):
    """Makes a square convolution without bias, padded as in PyTorch."""
    return nn.Conv(
        filters,
        kernel_size=(size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=name,
    )


def _shortcut(
    x: jax.Array, mask: jax.Array | None, filters: int, stride: int, conv, norm
) -> jax.Array:
    """Returns the input of a block, projected only if its shape differs from the output."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    x = conv(filters, 1, stride, name="downsample_conv")(x)
    return norm(name="downsample_norm")(x, mask)


class BasicBlock(nn.Module):
    """Applies two 3x3 convolutions: [b, H, W, C] -> [b, H/stride, W/stride, width]."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y, mask))
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        y = self.norm(name="norm2")(y, mask)
        return nn.relu(
            y + _shortcut(x, mask, self.width, self.stride, self.conv, self.norm)
        )


class BottleneckBlock(nn.Module):
    """Applies 1x1, 3x3, 1x1 convolutions: [b, H, W, C] -> [b, H/s, W/s, 4 * width].

    The stride s is on the 3x3 convolution, as in torchvision (in the paper it is on the
    first 1x1).
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        filters = 4 * self.width
        y = self.conv(self.width, 1, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y, mask))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y, mask))
        y = self.conv(filters, 1, 1, name="conv3")(y)
        y = self.norm(name="norm3")(y, mask)
        return nn.relu(
            y + _shortcut(x, mask, filters, self.stride, self.conv, self.norm)
        )


# 6 is no network of the literature: its two blocks compile in a few seconds.
STAGES = {
    6: (BasicBlock, (1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (BottleneckBlock, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """Computes the features of a residual network, up to the global average pool.

    Convolutions start from He normal with fan-out, for both stems. The authors' code
    does this for its ImageNet networks and leaves its CIFAR ones at PyTorch's defaults.
    BatchNorm starts at scale 1, bias 0. The running variance follows the biased batch
    variance. PyTorch's follows the unbiased one, which is larger by n / (n - 1) for
    n = b*H*W; this matters only if batch and feature map are tiny.

    Attributes:
      depth: 18 or 50; 6 to try things out.
      stem: 'imagenet' (7x7 stride 2, then 3x3 max pool stride 2) or 'cifar' (3x3 stride
        1, no pool; for images below about 64 pixels).
      width: channels of the first stage; each next one has twice as many.
      norm_axis_name: the device axis, along which BatchNorm takes statistics over the
        images of several devices; None for one device.
      dtype: dtype of the computation, float32 or bfloat16. Parameters, batch statistics
        and results are float32 in both cases.
      norm_group: images over which BatchNorm takes its batch statistics; 0 for the whole
        batch. See `models.norm`.
    """

    depth: int
    stem: str
    width: int = 64
    norm_axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    norm_group: int = 0

    def __post_init__(self):
        if self.depth not in STAGES:
            known = ", ".join(map(str, STAGES))
            raise UserError(f"depth={self.depth!r}: choose one of {known}")
        check_choice("stem", self.stem, STEMS)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Maps images of any size to features.

        Args:
          images: float [b, H, W, C]; any H, W and C.
          train: whether to normalise by the batch and update 'batch_stats' (which must
            then be mutable) or to normalise by the running statistics.
          mask: bool [b], the images that count in the batch statistics; None for all.
            A mask needs norm_group=0.

        Returns:
          float32 [b, 8 * width] for depth 18, [b, 32 * width] for depth 50, and
          [b, 2 * width] for depth 6.
        """
        conv = functools.partial(_conv, dtype=self.dtype)
        norm = functools.partial(
            BatchNorm,
            use_running_average=not train,
            group_size=self.norm_group,
            axis_name=self.norm_axis_name,
            momentum=0.9,  # what PyTorch calls 0.1
            epsilon=1e-5,
            dtype=self.dtype,
        )
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, size, stride, name="stem_conv")(images)
        x = nn.relu(norm(name="stem_norm")(x, mask))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

        block, stages = STAGES[self.depth]
        for i, num_blocks in enumerate(stages):
            for j in range(num_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                name = f"layer{i + 1}_block{j}"
                x = block(self.width * 2**i, stride, conv, norm, name=name)(x, mask)
        # Cast before the mean, which would otherwise be rounded to bfloat16.
        return x.astype(jnp.float32).mean(axis=(1, 2))
