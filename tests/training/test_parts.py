"""Which parts of a state lie in which files: what the agent depends on is found, whatever the algorithm."""

import dataclasses

import jax
import numpy as np

from penstock.algorithms import sac
from penstock.training.parts import agent_names, agents_of, layout_of
from penstock.training.plan import make_plan
from penstock.worlds import make_world

SMALL = {"actor_hidden": (4,), "critic_hidden": (4,)}


def learner_of(algorithm, **settings):
    plan = make_plan(algorithm, "classic/double-integrator", settings={**SMALL, **settings}, num_envs=4, steps=10_000)
    return plan.make_learner(plan.make_world())


def first_parts(names):
    return {name.split(".")[2].split("[")[0] for name in names}


def test_the_agent_is_found_among_what_is_learned():
    assert first_parts(agent_names(learner_of("sac", warmup_steps=8))) == {"actor"}
    assert first_parts(agent_names(learner_of("sac", normalize_observations=True))) == {"actor", "normalizer"}
    rfo = learner_of("rfo")
    assert first_parts(agent_names(rfo)) == {"actor", "normalizer"}
    assert layout_of(rfo).lasting == (), "all of its checkpoints can be continued"
    assert layout_of(learner_of("sac")).lasting == ("agent",)


class Averaged(sac.Learner):
    """Acts by the mean of its actor's weights and those of its critics' first layer: computed, not only picked."""

    def agent(self, learned):
        agent = super().agent(learned)
        extra = sum(leaf.mean() for leaf in jax.tree.leaves(learned.critic)[:1])
        return dataclasses.replace(agent, actor=jax.tree.map(lambda leaf: leaf + extra, agent.actor))


def test_an_agent_that_is_computed_has_what_it_is_computed_of():
    config = sac.Config.of(**SMALL)
    learner = Averaged(config, make_world("classic/double-integrator", 4), 10_000)
    names = agent_names(learner)
    assert first_parts(names) == {"actor", "critic"} and sum(".critic" in name for name in names) == 1
    learned = jax.vmap(learner.init)(jax.random.split(jax.random.key(0), 2))

    def masked(path, leaf):
        name = f".learned{jax.tree_util.keystr(path)}"
        return leaf if name in names else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    agents = agents_of(learner, jax.tree_util.tree_map_with_path(masked, learned), 2)
    for index, agent in enumerate(agents):
        whole = learner.evaluated(jax.tree.map(lambda leaf, index=index: leaf[index], learned))
        for ours, theirs in zip(*map(jax.tree.leaves, (agent, whole)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
