"""Learning rates of the rows that one program trains: several seeds, and several rates."""

import jax
import numpy as np

from penstock.algorithms.learner import Learner
from penstock.networks.optimization import LearningRate

Rates = dict[str, LearningRate]
"""By the learner's optimisers; leaves ``(K,)``, or of one row ``()``."""


def rates_of(learner: Learner, rates: Rates | None, rows: int) -> Rates:
    """The rates of every row.

    Args:
        learner: whose optimisers they are.
        rates: leaves ``(K,)``; None gives all rows the learner's own.
        rows: K.
    """
    if rates is not None:
        return rates
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (rows,)), learner.rates)
