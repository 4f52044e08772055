"""SAC Flow's presets, row by row, and what its settings do to the program."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import Pendulum, world

from penstock._errors import ConfigurationError
from penstock.algorithms import flowrl, sac_flow
from penstock.data import Batch
from penstock.networks import MLP
from penstock.networks.batch_renorm import BatchRenorm
from penstock.policies import Agent, MarginalFlow
from penstock.policies.released_velocities import BatchNormedVelocity
from penstock.policies.velocity_fields import PostNormBlock
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Vmapped

SMALL = {"actor_hidden": (8,), "critic_hidden": (8,), "batch_size": 8, "warmup_steps": 8}
ROWS = {
    "mlp": {"noise_enters": "latent", "noise_depends_on": "path"},
    "gated": {"noise_enters": "latent", "candidate_bound": None},
    "decoded": {
        "noise_enters": "velocity",
        "noise_depends_on": "path",
        "density": "noise-only",
    },
}
"""What each released script does in its own way."""


def differences(config):
    default = sac_flow.Config()
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(default, field.name)
    }


@pytest.mark.parametrize("velocity", ROWS)
def test_t21_each_preset_differs_from_the_default_in_exactly_the_listed_ways(velocity):
    found = differences(sac_flow.PRESETS[f"reference-code-{velocity}"]())
    widths = {"mlp": (512, 512), "gated": (512,), "decoded": (96,)}
    start = math.exp(-1.5) / (4 if velocity == "decoded" else 1)
    shared = {
        "networks": "released",
        "drift": False,
        "squash_log_det": "epsilon",
        "target_entropy": 0.0,
        "warmup_steps": 50_000,
    }
    own = {} if velocity == "gated" else {"velocity": velocity}
    assert found == {**shared, **own, **ROWS[velocity], "actor_hidden": widths[velocity], "target_step_std": start}


def test_presets_take_changes():
    assert sac_flow.PRESETS["reference-code-gated"](warmup_steps=7).warmup_steps == 7
    assert flowrl.PRESETS["released"](expectile=0.8).expectile == 0.8


def test_flowrl_preset_differs_in_the_three_ways_in_which_paper_and_code_disagree():
    config, default = flowrl.PRESETS["released"](), flowrl.Config()
    found = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(default, f.name)}
    assert found == {"weighting", "value_activation", "noise_clip"}  # weight_floor applies to this weighting alone


def flow_of(config):
    learner = sac_flow.Learner(config, world(), 10_000)
    return learner, learner.make_policy(jax.random.key(0), 3)


@pytest.mark.parametrize("velocity", ROWS)
def test_t21_presets_reach_the_policy(velocity):
    """Where its network says 0 the noise is exp(-1.5), through the velocity a quarter; the parts are the code's."""
    learner, flow = flow_of(sac_flow.reference_code(velocity, **{**SMALL, "warmup_steps": 8}))
    last = {"mlp": lambda f: f.field.network, "decoded": lambda f: f.field, "gated": lambda f: f.noise_network}
    silent = eqx.tree_at(lambda f: last[velocity](f).output.weight, flow, replace_fn=jnp.zeros_like)
    condition, log_sigma = silent.field.condition(jnp.ones(3)), silent.log_sigma(jnp.ones(3))
    _, log_std = silent.transition(condition, log_sigma, jnp.zeros(2), jnp.asarray(0.0))
    np.testing.assert_allclose(log_std, [-1.5 - (math.log(4) if velocity == "decoded" else 0.0)] * 2, rtol=1e-5)
    assert flow.log_sigma_bounds == (-5.0, 2.0) and not flow.drift and not flow.exact_squash
    assert flow.exact_density == (velocity != "decoded")
    assert isinstance(flow.noise_network, MLP) == (velocity == "gated")
    assert learner.entropy_target == 0.0
    if velocity == "gated":
        assert flow.field.candidate_bound is None
    if velocity == "decoded":
        assert isinstance(flow.field.blocks[0], PostNormBlock)
    if velocity == "gated":
        assert [layer.linear.out_features for layer in flow.noise_network.layers] == [512, 512]
    assert isinstance(flow.field, BatchNormedVelocity)


@pytest.mark.parametrize(("velocity", "size"), [("gated", 342_688), ("decoded", 311_998 - 74_496)])
def test_released_actors_have_the_measured_sizes(velocity, size):
    """HalfCheetah, statistics not counted. Flow-T's queries and keys, which do nothing, have 74,496."""

    def is_norm(node):
        return isinstance(node, BatchRenorm)

    task = Pendulum(action_size=6, observation_spec=ObservationSpec(17))  # its shapes are all that is used
    shapes = FunctionalWorld("shapes", Vmapped(task), 1)
    learner = sac_flow.Learner(sac_flow.reference_code(velocity), shapes, 10**6)
    policy = jax.eval_shape(lambda: learner.make_policy(jax.random.key(0), 17))
    norms = [n for n in jax.tree.leaves(policy, is_leaf=is_norm) if is_norm(n)]
    kept = sum(leaf.size for n in norms for leaf in (n.mean, n.variance, n.calls))
    assert sum(leaf.size for leaf in jax.tree.leaves(policy)) - kept == size


def released_step(gradient_steps=1, reward=0.0, **settings):
    """A learner with released networks, what it begins with, and what gradient steps make of that."""
    learner = sac_flow.Learner(sac_flow.Config(**{**SMALL, "networks": "released", **settings}), world(), 10_000)
    begin = jax.jit(learner.init_learned)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 4)
    vector = lambda key: Observation(2.0 + jax.random.normal(key, (8, 3)))  # noqa: E731
    action, bootstrap = jnp.tanh(jax.random.normal(keys[1], (8, 2))), jnp.full((8,), 0.9)
    batch = Batch(vector(keys[0]), action, jnp.full((8,), reward), bootstrap, vector(keys[2]))
    step = jax.jit(learner.gradient_step)
    after = begin
    for count in range(gradient_steps):
        after, _ = step(after, batch, jax.random.key(count), jnp.asarray(0))
    return learner, begin, after, batch


def test_affine_velocity_with_a_noise_scale_that_depends_on_the_path():
    """The noise scale is a further output behind shift and gain; a gradient step moves all three."""
    settings = {"networks": "paper", "velocity": "affine", "noise_depends_on": "path"}
    learner, begin, after, _ = released_step(critic="target", policy_delay=1, flow_steps=2, **settings)
    output = lambda learned: np.asarray(learned.actor.policy.field.network.output.weight)  # noqa: E731
    assert output(begin).shape[0] == 3 * learner.world.action_size
    moved = np.abs(output(after) - output(begin)).reshape(3, -1).max(axis=1)
    assert (moved > 0.0).all()


def test_the_released_code_has_no_affine_velocity():
    with pytest.raises(ConfigurationError, match="velocity = 'affine': the released code has mlp, gated and decoded"):
        sac_flow.Config(networks="released", velocity="affine")


def test_an_actor_step_moves_the_statistics_of_released_networks():
    _, begin, after, batch = released_step(critic="target", policy_delay=1, flow_steps=3)
    norm = after.actor.policy.field.norms["input"]
    assert begin.actor.policy.field.norms["input"].calls == 0 and norm.calls == 3
    seen = batch.observation.vector.mean(axis=0)
    np.testing.assert_allclose(norm.mean[:3], (1.0 - 0.99**3) * seen, rtol=1e-4)
    assert np.any(np.asarray(norm.scale) != 1.0)  # learned


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["target", "crossq"])
def test_a_refused_step_leaves_no_statistics(critic):
    learner, begin, _, batch = released_step(0, critic=critic, policy_delay=1)
    bad = dataclasses.replace(batch.observation, vector=batch.observation.vector.at[0, 0].set(jnp.nan))
    step = jax.jit(learner.gradient_step)
    after, metrics = step(begin, dataclasses.replace(batch, observation=bad), jax.random.key(2), jnp.asarray(0))
    assert metrics["actor/skipped"] == 1.0 and metrics["critic/skipped"] == 1.0
    new, old = ((state.actor, state.critic) for state in (after, begin))
    for one, other in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_in_play_released_networks_look_at_one_state_alone():
    learner, _, after, batch = released_step(critic="target", policy_delay=1)
    agent, one = learner.agent_of(after), jax.tree.map(lambda x: x[:1], batch.observation)
    np.testing.assert_allclose(agent.mode(batch.observation).action[:1], agent.mode(one).action, rtol=1e-5)


@pytest.mark.slow
def test_a_bounded_candidate_of_released_networks_starts_where_the_linear_one_does():
    def latents(bound):
        learner, begin, _, batch = released_step(0, candidate_bound=bound)
        return learner.agent_of(begin).mode(batch.observation).latent

    np.testing.assert_allclose(latents(50.0), latents(None), rtol=1e-2, atol=1e-3)


def test_one_line_says_which_deviations_are_active():
    learner, _ = flow_of(sac_flow.reference_code("decoded", **SMALL))
    (line,) = learner.notices
    assert "\n" not in line
    for words in ("no drift", "sigma dtau", "trunk", "without the scale", "epsilon", "released networks"):
        assert words in line
    assert flow_of(sac_flow.Config(**SMALL))[0].notices == ()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"velocity": "mlp", "candidate_bound": None}, r"candidate_bound = None: does nothing with velocity = 'mlp'"),
        ({"other_paths": 3}, r"other_paths = 3: does nothing with entropy = 'path'"),
        ({"entropy": "action", "other_paths": 0}, r"other_paths = 0: must be at least 1"),
        (
            {"entropy": "action", "density": "noise-only"},
            r"density = 'noise-only': does nothing with entropy = 'action'",
        ),
        (
            {"velocity": "decoded", "networks": "released", "decoder": "post-norm"},
            r"decoder = 'post-norm': does nothing with networks = 'released'",
        ),
        (
            {"networks": "released", "velocity": "mlp"},
            r"noise_depends_on = 'state': must be 'path' with networks = 'released' and velocity = 'mlp'",
        ),
        ({"renorm_warmup": 5, "critic": "target"}, r"renorm_warmup = 5: does nothing with critic = 'target'"),
        ({"networks": "released", "entropy": "action"}, r"entropy = 'action': .* or --networks paper"),
        ({"decoder": "post-norm"}, r"decoder = 'post-norm': does nothing with velocity = 'gated'"),
        ({"noise_depends_on": "path"}, r"noise_depends_on = 'path': a gated velocity has no trunk"),
        ({"learn_noise": False, "velocity": "mlp", "noise_depends_on": "path"}, r"does nothing with learn_noise"),
        ({"initial_log_std": 0.5}, r"initial_log_std = 0\.5: does nothing here"),
        ({"candidate_bound": 0.0}, r"candidate_bound = 0\.0: must be finite and positive"),
    ],
)
def test_contradictions_are_refused(settings, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        sac_flow.Config(**settings)


def test_drift_belongs_to_the_noise_of_a_diffusion():
    with pytest.raises(ConfigurationError, match=r"noise_enters = 'latent': the drift correction belongs to"):
        flow_of(sac_flow.Config(noise_enters="latent", **SMALL))


def equations(jaxpr):
    """Number of operations in a program, those of inner programs included."""
    inner = [v for e in jaxpr.eqns for v in e.params.values()]
    bodies = [getattr(v, "jaxpr", v) for v in inner]
    return len(jaxpr.eqns) + sum(equations(b) for b in bodies if hasattr(b, "eqns"))


def test_t19_flow_steps_are_a_loop():
    """The program does not grow with K."""

    def size(steps):
        _, flow = flow_of(sac_flow.Config(flow_steps=steps, **SMALL))
        return equations(jax.make_jaxpr(flow.draw_with_log_prob)(jnp.ones(3), jnp.ones(flow.noise_shape)).jaxpr)

    assert size(8) == size(16)


@pytest.mark.parametrize("entropy", ["path", "action"])
def test_the_regulated_entropy_is_the_chosen_one(entropy):
    """log p of the losses comes from the policy's own formula for it, and H is that of the same kind."""
    algorithm = sac_flow.Learner(sac_flow.Config(**SMALL, entropy=entropy), world(), 10)
    actor = jax.jit(algorithm.init_learned)(jax.random.key(0)).actor
    observation, key = Observation(jax.random.normal(jax.random.key(1), (8, 3))), jax.random.key(2)
    policy = actor.policy

    def draw(state, key):
        if entropy == "path":
            return policy.draw_with_log_prob(state, jax.random.normal(key, (5, 2)))
        marginal = MarginalFlow(policy.flow, 8)
        return marginal.draw_with_log_prob(state, jax.random.normal(key, (9, 5, 2)))

    agent = Agent(actor, algorithm.normalizer())
    sample, log_prob = jax.jit(lambda: agent.sample_with_log_prob(observation, key))()
    drawn, expected = jax.jit(jax.vmap(draw))(observation.vector, jax.random.split(key, 8))
    np.testing.assert_allclose(sample.action, drawn.action, rtol=1e-5)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    d, c = 2, 0.5 * math.log(2.0 * math.pi * math.e)
    by_hand = {"action": -d, "path": d * (5 * c + 4 * math.log(0.1697))}
    assert algorithm.entropy_target == pytest.approx(by_hand[entropy])
