"""Records: frozen dataclasses that are pytrees, as Equinox's modules are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from penstock._records import pytree_record


@pytree_record
class Pair:
    """Two of them."""

    first: Float[np.ndarray, "n"] | jax.Array
    second: object = None

    def total(self):
        return self.first.sum()


def test_a_record_is_a_pytree_that_knows_the_names_of_its_fields():
    pair = Pair(np.arange(3.0), {"inner": np.ones(2)})
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(pair)]
    assert paths == [".first", ".second['inner']"]
    leaves, structure = jax.tree.flatten(pair)
    again = jax.tree.unflatten(structure, leaves)
    assert again.first is pair.first and again.second["inner"] is pair.second["inner"]
    assert structure == jax.tree.structure(Pair(np.zeros(1), {"inner": 0}))
    assert jax.tree.structure(Pair(np.zeros(1))) != structure, "None is no leaf"


def test_a_record_passes_through_transformations_and_holds_whatever_stands_for_arrays():
    doubled = jax.jit(lambda pair: dataclasses.replace(pair, first=2 * pair.first))(Pair(jnp.arange(3.0)))
    assert doubled.total() == 6.0 and jax.vmap(lambda pair: pair.first)(Pair(jnp.ones((4, 2)))).shape == (4, 2)
    assert jax.tree.map(lambda leaf: "name", Pair(np.zeros(2))).first == "name"
    assert jax.eval_shape(lambda: Pair(jnp.zeros(2))).first.shape == (2,)


def test_a_record_is_frozen_and_compares_by_identity():
    pair = Pair(np.zeros(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.first = np.ones(2)
    assert pair == pair and pair != Pair(pair.first) and hash(pair) == hash(pair)


def test_a_record_cannot_be_extended():
    with pytest.raises(TypeError, match=r"class Triple\(Pair\): records can't be extended"):

        class Triple(Pair):
            third: object = None
