"""Building blocks of policies and critics: MLP, encoders of points and pixels, recurrence, running normalisation."""

from penstock.networks.encoders import Encoder, PixelEncoder, PointCloudEncoder, VectorEncoder, make_encoder
from penstock.networks.mlp import ACTIVATIONS, MLP, Trunk
from penstock.networks.normalizer import Normalizer
from penstock.networks.recurrence import Recurrence

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Encoder",
    "Normalizer",
    "PixelEncoder",
    "PointCloudEncoder",
    "Recurrence",
    "Trunk",
    "VectorEncoder",
    "make_encoder",
]
