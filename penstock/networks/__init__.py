"""Building blocks of policies and critics: MLP, point-cloud encoder, running normalisation."""

from penstock.networks.encoders import Encoder, PointCloudEncoder, VectorEncoder, make_encoder
from penstock.networks.mlp import ACTIVATIONS, MLP, Trunk
from penstock.networks.normalizer import Normalizer

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Encoder",
    "Normalizer",
    "PointCloudEncoder",
    "Trunk",
    "VectorEncoder",
    "make_encoder",
]
