"""Policies all of whose weights are random, also those that start at zero."""

import math

import equinox as eqx
import jax


def drawn_anew(policy, weights=1.0, seed=1):
    """The policy with normal weights of the standard deviation ``weights / sqrt(inputs)``."""
    leaves, tree = jax.tree.flatten(eqx.filter(policy, eqx.is_array))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [
        weights * jax.random.normal(key, leaf.shape) / math.sqrt(leaf.shape[-1])
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(tree, drawn), policy)
