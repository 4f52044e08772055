"""SAC Flow's presets, row by row, and what its settings do to the program."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import world

from penstock._errors import ConfigurationError
from penstock.algorithms import flowrl, sac_flow
from penstock.networks import MLP
from penstock.policies.released_velocities import BatchNormedVelocity
from penstock.policies.velocity_fields import PostNormBlock

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
    """The noise scale starts around exp(-1.5), and a quarter of it through the velocity; the parts are the code's."""
    learner, flow = flow_of(sac_flow.reference_code(velocity, **{**SMALL, "warmup_steps": 8}))
    condition, log_sigma = flow.field.condition(jnp.ones(3)), flow.log_sigma(jnp.ones(3))
    _, log_std = flow.transition(condition, log_sigma, jnp.zeros(2), jnp.asarray(0.0))
    assert flow.start_log_sigma == pytest.approx(-1.5)
    shift = -math.log(4) if velocity == "decoded" else 0.0
    assert np.all(log_std > -5.0 + shift) and np.all(log_std < 2.0 + shift)
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
        return equations(jax.make_jaxpr(flow.sample_with_path_log_prob)(jnp.ones(3), jax.random.key(0)).jaxpr)

    assert size(8) == size(16)
