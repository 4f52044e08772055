"""The standard small convolutional encoder of pictures."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from penstock._errors import require
from penstock._types import Key
from penstock.networks.mlp import orthogonal_linear, orthogonal_matrix

SMALLEST, LARGEST = 32, 128
"""Height and width that the encoder is made for, in pixels. Smaller pictures hardly survive four convolutions; larger
ones give a linear layer of more than five million weights."""

FILTERS = 32
FEATURES = 50
STRIDES = (2, 1, 1, 1)


class Convolution(eqx.Module):
    """A 3 x 3 convolution without padding, then ReLU: ``(H, W, inputs) -> (ceil((H - 2) / s), ..., outputs)``.

    Two forms of the same sum. On CPUs it is one matrix product of 3 x 3 patches: XLA's convolution loses its fast
    implementation there inside loops and conditions, where all learning takes place (measured in a scan, with
    gradient: 15 to 30 times slower than the patches; JAX 0.10.2). Elsewhere it is XLA's convolution.
    """

    weight: Float[Array, "3 3 inputs outputs"]
    bias: Float[Array, "outputs"]
    stride: int = eqx.field(static=True)

    def __init__(self, key: Key, inputs: int, outputs: int, stride: int):
        matrix = 2.0**0.5 * orthogonal_matrix(key, 9 * inputs, outputs)
        self.weight = matrix.reshape(3, 3, inputs, outputs)
        self.bias = jnp.zeros(outputs)
        self.stride = stride

    def __call__(self, picture: Float[Array, "H W inputs"]) -> Float[Array, "h w outputs"]:
        """Applies the layer."""
        stride = self.stride
        out = jax.lax.platform_dependent(
            picture,
            self.weight,
            cpu=lambda picture, weight: by_patches(picture, weight, stride),
            default=lambda picture, weight: by_convolution(picture, weight, stride),
        )
        return jax.nn.relu(out + self.bias)


def by_patches(
    picture: Float[Array, "H W inputs"], weight: Float[Array, "3 3 inputs outputs"], stride: int
) -> Float[Array, "h w outputs"]:
    """A convolution without padding, as the product of the matrix of all patches with the weights."""
    rows, columns = (n - 2 for n in picture.shape[:2])
    shifted = [picture[i : i + rows : stride, j : j + columns : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ weight.reshape(-1, weight.shape[-1])


def by_convolution(
    picture: Float[Array, "H W inputs"], weight: Float[Array, "3 3 inputs outputs"], stride: int
) -> Float[Array, "h w outputs"]:
    """The same as XLA's convolution."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(picture[None], weight, (stride, stride), "VALID", dimension_numbers=layout)[0]


class PixelNetwork(eqx.Module):
    """Picture to 50 features: four 3 x 3 convolutions of 32 filters (stride 2, then 1), Linear, LayerNorm, tanh.

    Bytes enter as ``b / 255 - 1/2``. Weights start orthogonal, with gain sqrt(2) before a ReLU; biases at zero. The
    linear layer holds most of the weights: ``50 * 32 * h * w`` with h = w = 35 for pictures of 84 x 84. Gradients
    reach the weights alone, since bytes have none.

    Source: SAC-AE (Yarats et al. 2019, arXiv 1910.01741, appendix B) and DrQ-v2 (Yarats et al. 2021, arXiv
    2107.09645), whose released code has these sizes.
    """

    convolutions: tuple[Convolution, ...]
    linear: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    size: int = eqx.field(static=True)

    def __init__(self, key: Key, pixels: tuple[int, int, int]):
        """Draws the weights.

        Args:
            key: random key.
            pixels: height, width and channels.

        Raises:
            ConfigurationError: the picture is too small or too large for this network.
        """
        height, width, channels = pixels
        require(
            min(height, width) >= SMALLEST and max(height, width) <= LARGEST,
            "pixels",
            pixels,
            f"height and width must lie between {SMALLEST} and {LARGEST} for the pixel encoder, and channels come "
            "last. Let the world render at another size, for example 84 x 84.",
        )
        keys = jax.random.split(key, len(STRIDES) + 1)
        inputs = (channels, *[FILTERS] * (len(STRIDES) - 1))
        self.convolutions = tuple(Convolution(keys[i], inputs[i], FILTERS, stride) for i, stride in enumerate(STRIDES))
        for stride in STRIDES:
            height, width = -(-(height - 2) // stride), -(-(width - 2) // stride)
        self.linear = orthogonal_linear(keys[-1], height * width * FILTERS, FEATURES, 1.0)
        self.norm = eqx.nn.LayerNorm(FEATURES, eps=1e-5)
        self.size = FEATURES

    def __call__(self, pixels: UInt8[Array, "H W C"]) -> Float[Array, "50"]:
        """Returns the features of one picture."""
        picture = pixels.astype(self.linear.weight.dtype) / 255.0 - 0.5
        for convolution in self.convolutions:
            picture = convolution(picture)
        return jnp.tanh(self.norm(self.linear(picture.reshape(-1))))
