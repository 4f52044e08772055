"""Mirrors: what is no mirror is refused, copies are what the mirror shows, and learning makes both sides alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.algorithms import nfpo, ppo
from penstock.algorithms.symmetry import SymmetrySettings
from penstock.observation import Observation, ObservationSpec
from penstock.worlds import make_world
from tests.algorithms.test_ppo import records_of, updated

SWAPPED = {"mirrored_observation": (2, 1, 4, 3), "mirrored_action": (2, 1)}
TURNED = {"mirrored_observation": (-1, 2, -3, 4), "mirrored_action": (-1, 2)}
TINY = {"window": 6, "epochs": 1, "minibatches": 1, "actor_hidden": (5,), "critic_hidden": (4,)}


def learner_of(algorithm=ppo, **settings):
    """On two axes, which observe (x, y, their velocities) and push along both."""
    world = make_world("classic/double-integrator", 4, episode_length=5, axes=2)
    return algorithm.Learner(algorithm.Config.preset(TINY, **settings), world, 4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"mirrored_observation": (1, 2)},
            "mirrored_observation: a mirror changes observations and actions; give",
        ),
        ({"mirrored_action": (1, 2)}, "mirrored_action: a mirror changes observations and actions; give mirrored_obs"),
        ({"mirrored_privileged": (1,)}, "mirrored_privileged: does nothing without mirrored_observation"),
        ({"mirrored_observation": (1, 3)}, r"mirrored_observation = \(1, 3\): must name every number from 1 to 2 once"),
        ({"mirrored_observation": (1, 1)}, "must name every number from 1 to 2 once"),
        ({"mirrored_observation": (0, 1)}, "must name every number from 1 to 2 once"),
        ({"mirrored_observation": (2, 3, 1)}, "entry 1 is 2, so entry 2 must be 1"),
        ({"mirrored_observation": (-2, 1)}, "entry 1 is -2, so entry 2 must be -1"),
    ],
)
def test_what_is_no_mirror_is_refused(settings, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        SymmetrySettings(**settings)


def test_a_mirror_that_does_not_fit_the_world_is_refused():
    with pytest.raises(ConfigurationError, match="mirrored_action: has 1 entries, and this world has 2"):
        learner_of(mirrored_observation=(1, 2, 3, 4), mirrored_action=(1,))
    with pytest.raises(ConfigurationError, match="this world has 4"):
        learner_of(mirrored_observation=(1, 2), mirrored_action=(1, 2))
    mirror = SymmetrySettings(mirrored_observation=(1,), mirrored_action=(-1,))
    with pytest.raises(ConfigurationError, match="point clouds or pixels, which are not mirrored"):
        mirror.mirror(ObservationSpec(1, points=3), 1)
    with pytest.raises(ConfigurationError, match="mirrored_privileged"):
        mirror.mirror(ObservationSpec(1, privileged=2), 1)


def test_the_privileged_part_has_a_mirror_of_its_own():
    settings = SymmetrySettings((1, -2), (-1,), (2, 1))
    mirror = settings.mirror(ObservationSpec(2, privileged=2), 1)
    seen = mirror.observation(Observation(jnp.array([[1.0, 2.0]]), privileged=jnp.array([[3.0, 4.0]])))
    assert seen.vector.tolist() == [[1.0, -2.0]] and seen.privileged.tolist() == [[4.0, 3.0]]


def test_every_observation_of_a_history_is_mirrored_alike():
    """The mirror is that of one observation, however many the policy sees."""
    settings = SymmetrySettings((2, 1, -3), (-1,))
    mirror = settings.mirror(ObservationSpec(6, history=2), 1)
    seen = mirror.observation(Observation(jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])))
    assert seen.vector.tolist() == [[2.0, 1.0, -3.0, 5.0, 4.0, -6.0]]
    with pytest.raises(ConfigurationError, match="mirrored_observation: has 6 entries, and this world has 3"):
        SymmetrySettings((1, 2, 3, 4, 5, 6), (-1,)).mirror(ObservationSpec(6, history=2), 1)


@pytest.mark.parametrize(("algorithm", "policy"), [(ppo, "gaussian"), (nfpo, "coupling"), (ppo, "noisy-flow")])
def test_copies_are_what_the_mirror_shows(algorithm, policy):
    """By hand: everything of the window again, entries turned, with the density and advantage of the step itself."""
    mirrored, plain = learner_of(algorithm, policy=policy, **TURNED), learner_of(algorithm, policy=policy)
    learned, records = records_of(plain)
    learned = learned.__class__(**{**vars(learned), "normalizer": learned.normalizer.merge(records.observation)})
    once, twice = plain.samples(learned, records), mirrored.samples(learned, records)
    count = once.weight.shape[0]
    first, copies = (jax.tree.map(lambda leaf, part=part: leaf[part], twice) for part in (np.s_[:count], np.s_[count:]))
    jax.tree.map(np.testing.assert_array_equal, first, once)

    raw = np.asarray(records.observation.vector).reshape(count, 4) * np.array([-1.0, 1.0, -1.0, 1.0], np.float32)
    mean, variance = (np.asarray(getattr(learned.normalizer, name)) for name in ("mean", "variance"))
    seen = (raw - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(copies.observation.vector, seen, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(copies.record, np.asarray(once.record) * np.array([-1.0, 1.0], np.float32))
    for name in ("log_prob", "advantage", "target", "weight"):
        np.testing.assert_array_equal(getattr(copies, name), getattr(once, name))
    value = learned.critic.normalized_values(Observation(jnp.asarray(seen)))[0]
    np.testing.assert_allclose(copies.value, value, atol=1e-5)
    assert copies.drawn.tolist() == [0.0] * count and first.drawn.tolist() == [1.0] * count


def test_the_divergence_is_that_of_what_the_policy_drew():
    """At the first gradient step it is 0, whatever the mirror shows."""
    learner = learner_of(**SWAPPED)
    learned, records = records_of(learner)
    shaken = jax.tree.map(lambda leaf: leaf + 0.3, learned.actor.policy)  # far from alike on both sides
    learned = learned.__class__(**{**vars(learned), "actor": learned.actor.__class__(learned.actor.encoder, shaken)})
    drawn = jax.vmap(lambda o, k: learner.explore(learned, o, k))(
        records.observation, jax.random.split(jax.random.key(3), learner.config.window)
    )
    records = records.__class__(**{**vars(records), "action": drawn.action, "record": drawn.record})
    batch = learner.samples(learned, records)
    copies = learner._log_prob(learned.actor, batch.observation, batch.record) - batch.log_prob
    assert np.abs(copies[: len(copies) // 2]).max() < 1e-5 < 1e-2 < np.abs(copies[len(copies) // 2 :]).max()
    _, metrics = updated(learner, learned, records)
    assert abs(metrics["actor/kl"]) < 1e-9 and metrics["actor/largest_log_ratio"] < 1e-5
    assert metrics["actor/clipped"] == 0.0


def test_learning_makes_both_sides_alike():
    settings = {"epochs": 60, "actor_learning_rate": 3e-3, "normalize_observations": False, "actor_hidden": (16,)}

    def unlike(**mirror):
        learner = learner_of(**settings, **mirror)
        learned, records = records_of(learner)
        learned, _ = updated(learner, learned, records)
        agent, vectors = learner.agent(learned), records.observation.vector[0]
        swapped = Observation(vectors[:, np.array([1, 0, 3, 2])])
        actions, others = agent.mode(Observation(vectors)).latent, agent.mode(swapped).latent
        return float(jnp.abs(others[:, ::-1] - actions).mean() / jnp.abs(actions).mean())

    assert unlike(**SWAPPED) < 0.4 * unlike()
