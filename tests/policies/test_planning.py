"""Action chunks: when the policy is consulted, which action comes next, and how an agent acts by them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.networks import Normalizer, Trunk, VectorEncoder
from penstock.observation import Observation
from penstock.policies import (
    Actor,
    Agent,
    Draw,
    MLPVelocity,
    NoisyFlow,
    SquashedGaussian,
    VelocityFlow,
)
from penstock.policies.planning import next_action, no_plan
from penstock.policies.settings import POLICIES

TRUNK = Trunk(hidden=(4,))


def follow(flat_size, done, chunk_length):
    """Runs the plan over a table ``done (steps, N)``. The n-th consultation plans the numbers 100 n + entry."""
    actions, decisions, consulted = [], [], []

    @jax.jit
    def follow_on(plan, step, ends):
        def consult():
            jax.debug.callback(lambda step: consulted.append(int(step)), step)
            chunk = 100.0 * step + jnp.arange(flat_size, dtype=jnp.float32)
            return Draw(jnp.tile(chunk, (done.shape[1], 1)), jnp.tile(-chunk, (done.shape[1], 1)))

        plan, action, decision = next_action(plan, step, chunk_length, consult)
        return plan.after(ends), plan, action, decision

    plan = no_plan(done.shape[1], flat_size)
    for step, ends in enumerate(done):
        plan, followed, action, decision = follow_on(plan, np.int32(step), ends)
        actions.append(np.asarray(action))
        decisions.append(np.asarray(decision))
        np.testing.assert_array_equal(followed.latent, -np.asarray(followed.action))
    jax.effects_barrier()
    return np.stack(actions), np.stack(decisions), consulted


def test_schedule_with_resets_in_the_middle_of_chunks():
    """C = 4, d = 2, three environments: one undisturbed, one reset after step 1, one after steps 3 and 6."""
    done = np.zeros((12, 3), bool)
    done[1, 1] = done[3, 2] = done[6, 2] = done[5, 2] = True
    actions, decisions, consulted = follow(8, done, 4)
    hands = np.array(
        [
            [(0, 0), (0, 0), (0, 0)],  # (step of the decision, position in the chunk)
            [(0, 1), (0, 1), (0, 1)],
            [(0, 2), (2, 0), (0, 2)],  # environment 1 begins anew ...
            [(0, 3), (2, 1), (0, 3)],
            [(4, 0), (4, 0), (4, 0)],  # ... and its shorter plan ends with the stretch of the others
            [(4, 1), (4, 1), (4, 1)],
            [(4, 2), (4, 2), (6, 0)],  # environment 2 ends twice in a row
            [(4, 3), (4, 3), (7, 0)],
            [(8, 0), (8, 0), (8, 0)],
            [(8, 1), (8, 1), (8, 1)],
            [(8, 2), (8, 2), (8, 2)],
            [(8, 3), (8, 3), (8, 3)],
        ]
    )
    first = 100.0 * hands[..., 0] + 2.0 * hands[..., 1]
    np.testing.assert_array_equal(actions, np.stack([first, first + 1.0], axis=-1))
    np.testing.assert_array_equal(decisions, hands[..., 1] == 0)
    assert consulted == [0, 2, 4, 6, 7, 8]  # and never when nobody needs a plan


def test_without_chunks_the_policy_is_consulted_at_every_step():
    actions, decisions, consulted = follow(2, np.zeros((3, 2), bool), 1)
    assert decisions.all() and consulted == [0, 1, 2]
    np.testing.assert_array_equal(actions[:, 0], [[0, 1], [100, 101], [200, 201]])


def test_an_agent_reads_a_draw_as_chunks_of_any_policy():
    """The first C actions of each are one draw, open loop; without noise they follow the agent's rule."""
    gaussian = SquashedGaussian(jax.random.key(0), 2, 8, TRUNK)
    flow = NoisyFlow(jax.random.key(1), MLPVelocity(jax.random.key(1), 2, 8, TRUNK), 2, 8, TRUNK)
    observation, key = Observation(jnp.array([[0.5, -1.0], [1.0, 2.0]])), jax.random.key(2)
    for policy in (gaussian, flow):
        agent = Agent(Actor(VectorEncoder(2), policy), Normalizer.create(2, False), chunk_length=4)
        act = eqx.filter_jit(agent.act)
        drawn_by = {
            True: eqx.filter_jit(agent.sample)(observation, key),
            False: eqx.filter_jit(agent.mode)(observation),
        }
        for chosen in (key, None):
            drawn, memory = drawn_by[chosen is not None], agent.initial_memory(2)
            for step in range(4):
                memory, action, decision = act(memory, jnp.asarray(step), observation, chosen)
                np.testing.assert_allclose(action, drawn.action[:, 2 * step : 2 * step + 2], rtol=1e-5)
                assert decision.all() == (step == 0)
                memory = memory.after(jnp.zeros(2, bool))


@pytest.mark.parametrize("name", ["gaussian", "flow"])
@pytest.mark.parametrize("chunk_length", [1, 3])
def test_policies_by_name_have_the_sizes_asked_for(name, chunk_length):
    settings = POLICIES[name]
    policy = jax.eval_shape(lambda key: settings.build(key, 5, 2 * chunk_length, TRUNK), jax.random.key(0))
    assert type(policy) is {"gaussian": SquashedGaussian, "flow": VelocityFlow}[name]
    assert policy.flat_size == 2 * chunk_length
