"""Building blocks of policies and critics: MLP, encoders of points and pixels, running normalisation."""

from penstock.networks.encoders import Encoder, PixelEncoder, PointCloudEncoder, VectorEncoder, make_encoder
from penstock.networks.mlp import ACTIVATIONS, MLP, Trunk
from penstock.networks.normalizer import Normalizer

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Encoder",
    "Normalizer",
    "PixelEncoder",
    "PointCloudEncoder",
    "Trunk",
    "VectorEncoder",
    "make_encoder",
]
