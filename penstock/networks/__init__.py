"""Building blocks of policies and critics: MLP, encoders of points and pixels, recurrence, running normalisation."""

from penstock.networks.encoders import Encoder, PixelEncoder, PointCloudEncoder, VectorEncoder, make_encoder
from penstock.networks.mlp import ACTIVATIONS, MLP, Trunk
from penstock.networks.normalizer import Normalizer
from penstock.networks.recurrence import GRUSettings, LSTMSettings, Recurrence, RecurrentSettings

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Encoder",
    "GRUSettings",
    "LSTMSettings",
    "Normalizer",
    "PixelEncoder",
    "PointCloudEncoder",
    "Recurrence",
    "RecurrentSettings",
    "Trunk",
    "VectorEncoder",
    "make_encoder",
]
