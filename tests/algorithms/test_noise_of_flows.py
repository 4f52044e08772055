"""A flow must be able to shape its noise: by flow matching, and by the gradient of a return alone.

Both in more dimensions than the last hidden layer is wide: there a plain MLP velocity leaves the standard deviation at
1 in all directions that its last layer does not span.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_worlds import learner

from penstock.algorithms.flow_matching import flow_matching_loss
from penstock.networks import Trunk
from penstock.policies import VelocityFlow
from penstock.policies.velocity_fields import make_velocity
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Vmapped

WIDTH, SIZE, STD = 16, 24, 0.2


def fitted_std(velocity, steps, batch=128):
    """Standard deviations ``(d,)`` of a flow that was fitted to N(mu, 0.2^2 I), with many accurate steps."""
    mean = jnp.linspace(-0.5, 0.5, SIZE)
    field = make_velocity(jax.random.key(0), velocity, 1, SIZE, Trunk((32, WIDTH)))
    policy = VelocityFlow(field=field, flat_size=SIZE, flow_steps=32, stepper="midpoint")
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    nothing = jnp.zeros(1)

    def loss(policy, key):
        keys = jax.random.split(key, (3, batch))
        targets = mean + STD * jax.vmap(lambda k: jax.random.normal(k, (SIZE,)))(keys[0])
        return jax.vmap(flow_matching_loss, in_axes=(None, None, 0, 0, 0))(
            policy, nothing, targets, keys[1], keys[2]
        ).mean()

    def step(index, carry):
        policy, state = carry
        gradient = jax.grad(loss)(policy, jax.random.fold_in(jax.random.key(1), index))
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(policy, updates), state

    def fit(policy):
        policy, _ = jax.lax.fori_loop(0, steps, step, (policy, optimizer.init(eqx.filter(policy, eqx.is_array))))
        keys = jax.random.split(jax.random.key(2), 4096)
        return jax.vmap(lambda key: policy.sample(nothing, key).latent)(keys).std(axis=0)

    return np.asarray(jax.jit(fit)(policy))


def test_a_known_law_is_fitted_in_every_entry_by_the_affine_velocity():
    np.testing.assert_allclose(fitted_std("affine", 400), STD, rtol=0.1)


@pytest.mark.slow
@pytest.mark.optimized
def test_the_plain_mlp_cannot_fit_it():
    assert fitted_std("mlp", 1500).mean() > 2 * STD


class LinearQuadratic(SingleTask):
    """x' = 0.9 x + 0.3 a in 24 dimensions, reward -|x'|^2 - 0.1 |a|^2: noise only costs."""

    action_size: int = eqx.field(static=True, default=SIZE)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(SIZE))
    episode_length: int = eqx.field(static=True, default=16)
    control_timestep: float = eqx.field(static=True, default=0.1)

    def initial(self, key):
        return 0.5 * jax.random.normal(key, (SIZE,))

    def advance(self, state, action):
        after = 0.9 * state + 0.3 * action
        return after, Outcome(-jnp.sum(after**2) - 0.1 * jnp.sum(action**2), jnp.zeros((), bool), {})

    def observe(self, state):
        return Observation(state)


def std_after_learning(velocity, iterations, learning_rate):
    """Mean standard deviation of the latent after learning from the return alone."""
    algorithm = learner(
        "rfo",
        FunctionalWorld("tiny/linear", Vmapped(LinearQuadratic()), 16),
        planned_updates=iterations,
        velocity=velocity,
        past_coefficient=0.0,
        uniform_coefficient=0.0,
        window=8,
        flow_steps=4,
        actor_hidden=(32, WIDTH),
        critic_hidden=(32,),
        actor_learning_rate=learning_rate,
        critic_minibatches=1,
    )

    @jax.jit
    def learned(key):
        begin = algorithm.init(key)
        return algorithm.measure(jax.lax.fori_loop(0, iterations, lambda _, now: algorithm.step(now)[0], begin))

    return learned(jax.random.key(0))


def test_the_return_alone_takes_noise_away_where_noise_only_costs():
    found = std_after_learning("affine", 100, 2e-2)
    assert found["policy/latent_std"] < 0.1
    assert found["policy/latent_std_min"] <= found["policy/latent_std"] <= found["policy/latent_std_max"] < 0.2
    assert found["policy/noise_rank"] == SIZE


@pytest.mark.slow
def test_the_plain_mlp_keeps_its_noise():
    found = std_after_learning("mlp", 300, 1e-2)
    assert found["policy/latent_std"] > 0.4 and found["policy/noise_rank"] == WIDTH
