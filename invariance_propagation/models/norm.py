"""BatchNorm over groups of a batch, with the same result on any number of devices.

flax.linen.BatchNorm takes its statistics over the images of one device or of all devices.
The authors' code (WangFeng18/InvariancePropagation) trains with 128 images on 4 GPUs, so
its statistics are over 32 images. Here that number is an option of the config and does
not depend on the machine.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from invariance_propagation import parallel
from invariance_propagation.errors import UserError


class BatchNorm(nn.Module):
    """Normalises channels by the statistics of groups of images, or by running averages.

    The batch of all devices, in its order, is cut into blocks of `group_size` images.
    Each block is normalised by its mean and biased variance, computed in float32. A
    device may hold several blocks, and a block may span several devices.

    The running statistics follow the average over this device's blocks. With several
    devices, the caller must average 'batch_stats' over them, as the training steps do.
    (The authors' code keeps those of its first GPU.)

    Variables have the names and shapes of flax.linen.BatchNorm: 'scale' and 'bias' in
    'params' (none with affine=False), 'mean' and 'var' in 'batch_stats', all float32 [C].

    Attributes:
      use_running_average: whether to normalise by the running statistics, and not to
        update them.
      group_size: images in a block; 0 for the whole batch.
      axis_name: the device axis, or None for one device.
      momentum: weight of the old running statistics.
      epsilon: added to the variance.
      dtype: dtype of the result; the computation is in float32.
      affine: whether to scale and shift the normalised values by parameters.
    """

    use_running_average: bool
    group_size: int = 0
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Normalises x, float [b, ..., C].

        Args:
          x: this device's images or feature maps.
          mask: bool [b], the rows that count in the statistics; None for all. All rows
            are normalised. A mask needs group_size=0, and at least one row must count
            on some device.

        Returns:
          `dtype`, the shape of x.

        Raises:
          UserError: `group_size` does not fit the batch; see `check_norm_group`.
          ValueError: both a mask and a `group_size` are set.
        """
        shape = (x.shape[-1],)
        scale, bias = 1.0, 0.0
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if self.use_running_average:
            means, variances = mean.value[None], var.value[None]
        else:
            means, variances = group_moments(
                x,
                group_size=0 if self.is_initializing() else self.group_size,
                axis_name=None if self.is_initializing() else self.axis_name,
                mask=mask,
            )
        if not self.use_running_average and not self.is_initializing():
            keep = self.momentum
            mean.value = keep * mean.value + (1 - keep) * means.mean(axis=0)
            var.value = keep * var.value + (1 - keep) * variances.mean(axis=0)
        blocks = x.astype(jnp.float32).reshape(len(means), -1, *shape)
        factor = jax.lax.rsqrt(variances + self.epsilon) * scale
        blocks = (blocks - means[:, None]) * factor[:, None] + bias
        return blocks.reshape(x.shape).astype(self.dtype)


def norm_group_of(backbone: nn.Module) -> int:
    """Returns over how many images a backbone's BatchNorm takes statistics; 0 for all."""
    return getattr(backbone, "norm_group", 0)


def group_moments(
    x: jax.Array,
    *,
    group_size: int,
    axis_name: str | None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes mean and biased variance of each block that lies on this device.

    Args:
      x: float [b, ..., C], this device's images or feature maps.
      group_size: images in a block; 0 for the batch of all devices.
      axis_name: the device axis, or None for one device.
      mask: bool [b], the rows that count; None for all.

    Returns:
      Mean and variance, float32 [n, C] each, of this device's n blocks in their order;
      n = 1 if a block spans devices.

    Raises:
      UserError, ValueError: as for `BatchNorm`.
    """
    if mask is not None and group_size:
        raise ValueError("a mask of rows needs statistics over the whole batch")
    count_here, devices = len(x), parallel.axis_size(axis_name)
    check_norm_group(group_size, batch_size=count_here * devices, num_devices=devices)
    group_size = group_size or count_here * devices
    num_blocks = max(1, count_here // group_size)
    together = max(1, group_size // count_here)  # devices that share a block

    x = x.astype(jnp.float32).reshape(count_here, -1, x.shape[-1])
    count = jnp.float32(group_size * x.shape[1])
    if mask is not None:
        x = jnp.where(mask[:, None, None], x, 0.0)
        rows = jnp.sum(mask, dtype=jnp.float32)
        count = parallel.psum(rows, axis_name) * x.shape[1]
    x = x.reshape(num_blocks, -1, x.shape[-1])
    sums = jnp.stack([x.sum(axis=1), jnp.square(x).sum(axis=1)])
    mean, square = _sum_over_neighbors(sums, together, axis_name) / count
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def check_norm_group(norm_group: int, *, batch_size: int, num_devices: int) -> None:
    """Checks that blocks of `norm_group` images fit the batch and the devices.

    Args:
      norm_group: images in a block; 0 for the whole batch, which always fits.
      batch_size: B, over all devices; a multiple of `num_devices`.
      num_devices: D.

    Raises:
      UserError: `norm_group` is negative or does not divide the batch, or a device
        holds neither whole blocks nor an equal part of one.
    """
    if norm_group == 0:
        return
    if norm_group < 0:
        raise UserError(
            f"encoder.norm_group={norm_group}: set it to the number of images over "
            "which BatchNorm takes its statistics, or to 0 for the whole batch"
        )
    if batch_size % norm_group:
        nearest = max(n for n in _divisors(batch_size) if n <= norm_group)
        above = -(-batch_size // norm_group) * norm_group
        raise UserError(
            f"encoder.norm_group={norm_group} does not divide a batch of {batch_size} "
            f"images: set encoder.norm_group to {nearest}, or to 0 for statistics over "
            f"the whole batch, or train.batch_size to {above}"
        )
    if not fits_devices(norm_group, num_devices, batch_size=batch_size):
        fitting = [
            n
            for n in _divisors(batch_size)
            if fits_devices(norm_group, n, batch_size=batch_size)
        ]
        fewer = max(n for n in fitting if n < num_devices)
        more = [n for n in fitting if n > num_devices][:1]
        raise UserError(
            f"a batch of {batch_size} images gives each of {num_devices} devices "
            f"{batch_size // num_devices}, neither a multiple nor a divisor of "
            f"encoder.norm_group={norm_group}: set num_devices to "
            f"{' or '.join(map(str, [fewer, *more]))}, or encoder.norm_group to 0 for "
            "statistics over the whole batch"
        )


def fits_devices(norm_group: int, num_devices: int, *, batch_size: int) -> bool:
    """Returns whether each device holds whole blocks, or an equal part of one."""
    if batch_size % num_devices:
        return False
    per_device = batch_size // num_devices
    if norm_group == 0:
        return True
    return per_device % norm_group == 0 or norm_group % per_device == 0


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _sum_over_neighbors(
    x: jax.Array, together: int, axis_name: str | None
) -> jax.Array:
    """Sums x over this device and those that share its block."""
    if together == 1:
        return x
    if together == parallel.axis_size(axis_name):
        return parallel.psum(x, axis_name)
    # psum could sum over groups of devices, but not inside vmap. These arrays are small.
    gathered = jax.lax.all_gather(x, axis_name)
    blocks = gathered.reshape(-1, together, *x.shape).sum(axis=1)
    return blocks[jax.lax.axis_index(axis_name) // together]
