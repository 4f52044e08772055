"""Action chunks: when the policy is consulted, which action comes next, and what the wrapper passes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.networks import Trunk
from penstock.policies import ActionSample, Chunked, MLPVelocity, PolicySettings, SquashedGaussian, VelocityFlow, build
from penstock.policies.planning import after_step, next_action, no_plan

TRUNK = Trunk(hidden=(4,))


def chunked(length=4, size=8):
    return Chunked(inner=SquashedGaussian(jax.random.key(0), 2, size, TRUNK), length=length)


def follow(policy, done, chunk_length):
    """Runs the plan over a table ``done (steps, N)``. The n-th consultation plans the numbers 100 n + entry."""
    plan = no_plan(done.shape[1], policy)
    actions, decisions, consulted = [], [], []
    for step, ends in enumerate(done):

        def consult(step=step):
            jax.debug.callback(lambda: consulted.append(step))
            chunk = 100.0 * step + jnp.arange(policy.flat_size, dtype=jnp.float32)
            return ActionSample(jnp.tile(chunk, (done.shape[1], 1)), jnp.tile(-chunk, (done.shape[1], 1)))

        plan, action, decision = next_action(plan, jnp.asarray(step), chunk_length, consult)
        actions.append(np.asarray(action))
        decisions.append(np.asarray(decision))
        np.testing.assert_array_equal(plan.sample.latent, -plan.sample.action)
        plan = after_step(plan, jnp.asarray(ends))
    jax.effects_barrier()
    return np.stack(actions), np.stack(decisions), consulted


def test_schedule_with_resets_in_the_middle_of_chunks():
    """C = 4, d = 2, three environments: one undisturbed, one reset after step 1, one after steps 3 and 6."""
    done = np.zeros((12, 3), bool)
    done[1, 1] = done[3, 2] = done[6, 2] = done[5, 2] = True
    actions, decisions, consulted = follow(chunked(), done, 4)
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
    policy = SquashedGaussian(jax.random.key(0), 2, 2, TRUNK)
    actions, decisions, consulted = follow(policy, np.zeros((3, 2), bool), 1)
    assert decisions.all() and consulted == [0, 1, 2]
    np.testing.assert_array_equal(actions[:, 0], [[0, 1], [100, 101], [200, 201]])


def test_wrapper_passes_everything_on():
    features, noise, key = jnp.array([0.5, -1.0]), jnp.linspace(-1.0, 1.0, 8), jax.random.key(2)
    gaussian = chunked()
    inner = gaussian.inner
    assert gaussian.capabilities == inner.capabilities
    assert (gaussian.action_size, gaussian.chunk_length, gaussian.flat_size) == (2, 4, 8)
    for one, other in (
        (gaussian.transport(features, noise), inner.transport(features, noise)),
        (gaussian.sample(features, key), inner.sample(features, key)),
        (gaussian.mode(features), inner.mode(features)),
        (gaussian.sample_with_log_prob(features, key), inner.sample_with_log_prob(features, key)),
        (gaussian.log_prob(features, noise), inner.log_prob(features, noise)),
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)

    field = MLPVelocity(jax.random.key(1), 2, 8, TRUNK, output_gain=1.0)
    flow = VelocityFlow(field=field, action_size=8, flow_steps=3, stepper="midpoint")
    wrapped = Chunked(inner=flow, length=2)
    assert wrapped.capabilities == flow.capabilities
    assert wrapped.network_evaluations == flow.network_evaluations == 6
    assert (wrapped.action_size, wrapped.flat_size) == (4, 8)
    tau = jnp.asarray(0.3)
    np.testing.assert_array_equal(wrapped.velocity(features, noise, tau), flow.velocity(features, noise, tau))


def test_wrapper_refuses_what_cannot_be_chunked():
    with pytest.raises(ConfigurationError, match=r"chunk_length = 3: must divide the inner policy's action size 8"):
        chunked(length=3)
    with pytest.raises(ConfigurationError, match=r"chunk_length = 0: must be at least 1"):
        chunked(length=0)
    with pytest.raises(ConfigurationError, match=r"a chunk cannot be chunked again"):
        Chunked(inner=chunked(), length=2)


@pytest.mark.parametrize("name", ["gaussian", "flow"])
@pytest.mark.parametrize("chunk_length", [1, 3])
def test_policies_by_name_have_the_sizes_asked_for(name, chunk_length):
    settings = PolicySettings(name, TRUNK, 2, "euler", True, -1.0, chunk_length)
    policy = jax.eval_shape(lambda key: build.make_policy(key, settings, 5, 2), jax.random.key(0))
    assert isinstance(policy, Chunked) == (chunk_length > 1)
    inner = policy.inner if isinstance(policy, Chunked) else policy
    assert type(inner) is {"gaussian": SquashedGaussian, "flow": VelocityFlow}[name]
    assert (policy.action_size, policy.chunk_length, policy.flat_size) == (2, chunk_length, 2 * chunk_length)
