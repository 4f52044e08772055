"""The coupling flow as a distribution of rsl_rl: the JAX policy's function, its estimates, its guards."""

import math
import subprocess
import sys

import pytest

pytest.importorskip("rsl_rl.modules.distribution")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict

from penstock._errors import ConfigurationError, PenstockError
from penstock.networks import ACTIVATIONS as JAX_ACTIVATIONS
from penstock.networks import Normalizer, Recurrence, Trunk, VectorEncoder
from penstock.observation import Observation
from penstock.policies import Actor, Agent, CouplingFlow, SquashedGaussian
from penstock.rsl_rl import CouplingFlowDistribution
from penstock.rsl_rl.distribution import LARGEST_ACTION
from penstock.rsl_rl.flow import ACTIVATIONS
from penstock.rsl_rl.weights import actor_config, load_weights
from tests.drawn_weights import drawn_anew

FEATURES, STATES = 3, 32
BOUNDS = ("tanh", "scaled-tanh", "clip", "none")


def flow_of(size, *, activation="elu", weights=1.0, **settings):
    trunk = Trunk(hidden=(16, 8), activation=activation, layer_norm=False)
    return drawn_anew(CouplingFlow(jax.random.key(0), FEATURES, size, trunk, hidden=(8,), **settings), weights)


def model_of(source, size):
    config = actor_config(source)
    assert config.pop("class_name") == "MLPModel"
    model = MLPModel(observed(np.zeros((1, FEATURES))), {"actor": ["policy"]}, "actor", size, **config)
    load_weights(model, source)
    return model


def observed(features, dtype=torch.float32):
    return TensorDict({"policy": torch.tensor(np.asarray(features), dtype=dtype)}, batch_size=[len(features)])


@eqx.filter_jit
def reference(policy, features, noise, records):
    """In JAX: latents of these noises, log-densities of these records, actions of zero noise."""
    latents = jax.vmap(policy.draw)(features, noise).latent
    return latents, jax.vmap(policy.log_prob)(features, records), jax.vmap(policy.mode)(features).action


def computed(model, features, noise, actions):
    """The same in torch, through rsl_rl's model."""
    dtype = next(model.parameters()).dtype
    obs = observed(features, dtype)
    with torch.no_grad():
        model(obs, stochastic_output=True)
        log_prob = model.get_output_log_prob(torch.tensor(actions, dtype=dtype))
        flow, context = model.distribution.flow, model.mlp(obs["policy"])
        latents = flow.push(flow.condition(context), torch.tensor(noise, dtype=dtype))[0]
        return latents.numpy(), log_prob.numpy(), model(obs).numpy()


@pytest.mark.parametrize("scale_bound", BOUNDS)
@pytest.mark.parametrize(
    ("size", "masks", "activation"),
    [
        (1, "halves", "tanh"),
        (2, "alternating", "silu"),
        (3, "halves", "elu"),
        (6, "halves", "gelu"),
        (6, "alternating", "mish"),
    ],
)
def test_it_is_the_function_that_the_jax_policy_is(size, masks, activation, scale_bound):
    """Same draws for the same noise, same log-density of any action, same action without noise; any size of inputs."""
    settings = {"weights": 0.5} if scale_bound == "none" else {"bound": 0.7}  # without a bound it would overflow
    policy = flow_of(size, masks=masks, activation=activation, scale_bound=scale_bound, **settings)
    single = model_of(policy, size)
    double = model_of(policy, size).double()
    random = np.random.default_rng(0)
    for scale in (0.1, 1.0, 10.0):
        features = scale * random.normal(size=(STATES, FEATURES))
        noise, actions = random.normal(size=(STATES, size)), random.uniform(-0.999, 0.999, (STATES, size))
        features, noise, actions = (x.astype(np.float32) for x in (features, noise, actions))
        records = np.arctanh(actions.astype(float))
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_array(x) else x, policy)
            latents, log_probs, modes = map(
                np.asarray, reference(exact, *(x.astype(float) for x in (features, noise, records)))
            )
        modes = np.clip(modes, -LARGEST_ACTION, LARGEST_ACTION)
        assert np.ptp(log_probs) > 1.0 and np.abs(latents - noise).max() > 0.1, "the flow does something"
        for found, expected in zip(
            computed(double, features, noise, actions), (latents, log_probs, modes), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
        in_jax = reference(policy, features, noise, records.astype(np.float32))
        for found, expected in zip(computed(single, features, noise, actions), in_jax, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_policy_that_clips_is_unbounded_in_rsl_rl():
    """Same density of any latent, beyond the box too; actions are the latents, and the environment is to clip them."""
    policy = flow_of(3, squash="clip")
    model = model_of(policy, 3)
    assert actor_config(policy)["distribution_cfg"]["squash"] is False
    random = np.random.default_rng(0)
    drawn = random.normal(size=(STATES, FEATURES)), random.normal(size=(STATES, 3)), random.normal(size=(STATES, 3))
    features, noise, records = (x.astype(np.float32) for x in (drawn[0], drawn[1], 2.0 * drawn[2]))
    assert np.abs(records).max() > 1.0
    latents, log_probs, modes = map(np.asarray, reference(policy, features, noise, records))
    found = computed(model, features, noise, records)
    np.testing.assert_allclose(found[0], latents, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], log_probs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.clip(found[2], -1.0, 1.0), modes, rtol=1e-5, atol=1e-5)


def test_activations_are_those_of_penstock():
    assert set(ACTIVATIONS) == set(JAX_ACTIVATIONS)
    x = np.linspace(-4.0, 4.0, 41, dtype=np.float32)
    for name, module in ACTIVATIONS.items():
        np.testing.assert_allclose(module()(torch.tensor(x)).numpy(), JAX_ACTIVATIONS[name](jnp.asarray(x)), atol=1e-6)


def test_an_agent_brings_its_statistics():
    """Also where an observation hardly varies, so that rsl_rl's 0.01 and Penstock's 1e-5 are not alike."""
    normalizer = Normalizer(jnp.array([1.0, -2.0, 0.5]), jnp.array([4.0, 1e-6, 0.3]), jnp.asarray(1e5), True)
    agent = Agent(Actor(VectorEncoder(FEATURES), flow_of(2)), normalizer)
    model = model_of(agent, 2)
    vector = np.random.default_rng(1).normal(size=(STATES, FEATURES)).astype(np.float32)
    vector[:, 1] = -2.0 + 1e-3 * vector[:, 1]
    with torch.no_grad():
        found = model(observed(vector)).numpy()
    np.testing.assert_allclose(found, agent.mode(Observation(jnp.asarray(vector))).action, atol=1e-5)
    assert model.obs_normalizer.count == 100_000
    model.train()
    model.update_normalization(observed(vector))
    with torch.no_grad():
        assert not np.allclose(model(observed(vector)).numpy(), found, atol=1e-5), "and goes on from there"


# ------------------------------------------------------------------ what cannot move


def changed(**settings):
    config = actor_config(flow_of(2))
    del config["class_name"]
    config["distribution_cfg"] = {**config["distribution_cfg"], **settings.pop("distribution", {})}
    obs = observed(np.zeros((1, settings.pop("features", FEATURES))))
    return MLPModel(obs, {"actor": ["policy"]}, "actor", settings.pop("size", 2), **{**config, **settings})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"distribution": {"bound": 0.5}}, r"distribution_cfg.bound = 0.5: the policy has 0.25. Build the model from"),
        ({"distribution": {"squash": False}}, "distribution_cfg.squash = False"),
        ({"distribution": {"base_std": None}}, "distribution_cfg.base_std = 'fixed at 1': the policy has 'learned'"),
        ({"hidden_dims": [16, 16]}, r"hidden_dims = \[16, 16\]: the policy has \[16\]"),
        ({"activation": "relu"}, "activation = 'ReLU': the policy has 'ELU'"),
        ({"features": 5}, r"weights of the shape \(16, 5\) where the policy's are \(16, 3\)"),
        ({"size": 3}, r"where the policy's are"),
    ],
)
def test_weights_of_another_shape_or_kind_are_refused(settings, sentence):
    model = changed(**settings)
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(ConfigurationError, match=sentence):
        load_weights(model, flow_of(2))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_policies_that_cannot_move_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ConfigurationError, match=r"LayerNorm, which rsl_rl's MLP has not"):
        actor_config(CouplingFlow(key, 3, 2, Trunk(hidden=(8, 8))))
    with pytest.raises(ConfigurationError, match="actor_hidden needs two widths"):
        actor_config(CouplingFlow(key, 3, 2, Trunk(hidden=(8,), layer_norm=False)))
    gaussian = SquashedGaussian(key, 3, 2, Trunk(hidden=(8,)), state_dependent_std=True, initial_log_std=-1.0)
    off = Normalizer.create(3, enabled=False)
    with pytest.raises(ConfigurationError, match=r"it is a SquashedGaussian.*--policy coupling"):
        actor_config(Agent(Actor(VectorEncoder(3), gaussian), off))
    with pytest.raises(ConfigurationError, match="plans 2 actions"):
        actor_config(Agent(Actor(VectorEncoder(3), flow_of(2)), off, chunk_length=2))
    cell = Recurrence(key, 3, 3, "gru")
    with pytest.raises(ConfigurationError, match="it has a recurrent cell, and an MLPModel has none"):
        actor_config(Agent(Actor(VectorEncoder(3), flow_of(2), cell), off))
    plain = MLPModel(observed(np.zeros((1, 3))), {"actor": ["policy"]}, "actor", 2, hidden_dims=[16])
    with pytest.raises(ConfigurationError, match=r"its distribution is NoneType. Build it from actor_config"):
        load_weights(plain, flow_of(2))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"coupling_layers": 0}, "coupling_layers = 0: must be at least 1"),
        ({"bound": 0.0}, "bound = 0.0: must be finite and greater than 0"),
        ({"scale_bound": "none", "bound": 2.0}, "bound = 2.0: does nothing with scale_bound = none"),
        ({"scale_bound": "hard"}, "scale_bound = 'hard': must be one of tanh"),
        ({"masks": "thirds"}, "masks = 'thirds': must be one of halves, alternating"),
        ({"base_std": 3.0}, r"base_std = 3.0: must lie in \[0.05, 2\]"),
        ({"activation": "swish"}, "activation = 'swish': unknown.*rsl_rl's swish is silu"),
        ({"context_size": 0}, "context_size = 0: must be at least 1"),
        ({"coupling_hidden": (8, 0)}, r"coupling_hidden = \(8, 0\): must hold widths of at least 1"),
    ],
)
def test_settings_that_make_no_flow_are_refused(settings, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        CouplingFlowDistribution(2, **settings)


# ------------------------------------------------------------------ estimates and stand-ins


def conditioned(size=3, states=STATES, weights=0.7, seed=0, **settings):
    """A distribution with random weights, conditioned on random states."""
    torch.manual_seed(seed)
    distribution = CouplingFlowDistribution(size, context_size=6, coupling_hidden=(8,), **settings)
    with torch.no_grad():
        for weight in distribution.parameters():
            weight.normal_(std=weights / math.sqrt(weight.shape[-1]))
    distribution.update(torch.randn(states, 6))
    return distribution


@pytest.mark.parametrize("base_std", [None, 0.7])
def test_it_starts_as_one_gaussian_in_every_state(base_std):
    distribution = CouplingFlowDistribution(3, base_std=base_std)
    distribution.update(torch.randn(5, distribution.input_dim))
    std = 1.0 if base_std is None else base_std
    normal = torch.distributions.Normal(torch.zeros(5, 3), std)
    actions = torch.randn(5, 3)
    torch.testing.assert_close(distribution.log_prob(actions), normal.log_prob(actions).sum(dim=1))
    torch.testing.assert_close(distribution.entropy, normal.entropy().sum(dim=1))
    torch.testing.assert_close(distribution.mean, torch.zeros(5, 3))
    torch.testing.assert_close(distribution.std, torch.full((5, 3), std), rtol=0.25, atol=0.0)
    assert (distribution.log_prob(actions).requires_grad, distribution.flow.log_std is None) == (True, base_std is None)


@pytest.mark.parametrize("squash", [False, True])
def test_the_entropy_is_unbiased_and_leaves_the_log_density_alone(squash):
    distribution = conditioned(squash=squash)
    distribution.update(torch.randn(1, 6).expand(90_000, 6))
    log_prob = distribution.log_prob(distribution.sample())
    (kept,) = distribution.params
    entropy = distribution.entropy
    error = math.hypot(log_prob.std().item(), entropy.std().item()) / 300.0
    assert abs((entropy.mean() + log_prob.mean()).item()) < 4.0 * error < 0.05
    assert distribution.params[0] is kept and torch.equal(kept, log_prob)
    before = [weight.grad for weight in distribution.parameters()]
    entropy.mean().backward()
    assert before == [None] * len(before) and all(w.grad is not None for w in distribution.parameters())


def test_squashing_is_a_change_of_variables():
    plain, squashed = conditioned().double(), conditioned(squash=True).double()
    context, latents = torch.randn(STATES, 6), 2.0 * torch.randn(STATES, 3).double()
    for distribution in (plain, squashed):
        distribution.update(context)
    expected = plain.log_prob(latents) - torch.log1p(-(torch.tanh(latents) ** 2)).sum(dim=1)
    torch.testing.assert_close(squashed.log_prob(torch.tanh(latents)), expected)
    squashed.float().update(context)
    ends = squashed.log_prob(torch.ones(STATES, 3))
    assert torch.isfinite(ends).all()
    with torch.no_grad():
        squashed.flow.log_std.fill_(9.0)
        squashed.flow.couplings[-1].network[-1].bias[-3:] = 50.0  # shifts
    drawn = squashed.sample()
    assert 0.999999 < drawn.abs().max() < 1.0 and torch.isfinite(squashed.log_prob(drawn)).all()


def test_the_divergence_is_that_of_gaussians_where_it_is_known():
    """The estimate of rsl_rl's adaptive rate, from stored log-densities alone."""
    old, new = CouplingFlowDistribution(2, base_std=1.0), CouplingFlowDistribution(2, base_std=0.8)
    for distribution in (old, new):
        distribution.update(torch.zeros(100_000, old.input_dim))
    torch.manual_seed(0)
    actions = old.sample()
    for distribution in (old, new):
        distribution.log_prob(actions)
    estimate = old.kl_divergence(old.params, new.params)
    normal = torch.distributions.Normal
    exact = 2.0 * torch.distributions.kl_divergence(normal(0.0, 1.0), normal(0.0, 0.8)).item()
    assert estimate.min() > -1e-6
    np.testing.assert_allclose(estimate.mean().item(), exact, rtol=0.05)
    assert old.kl_divergence(old.params, old.params).abs().max() == 0.0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_divergence_that_is_not_finite_leaves_the_rate_alone(wrong):
    old, new = torch.zeros(4), torch.tensor([0.1, wrong, 0.0, 0.2])
    mean = conditioned().kl_divergence((old,), (new,)).mean()
    assert not mean > 0.02 and not mean < 0.005, "rsl_rl's two questions"


def test_what_stands_for_parameters_waits_for_a_log_density():
    distribution = conditioned()
    with pytest.raises(PenstockError, match="Call log_prob with these states' actions first"):
        _ = distribution.params
    distribution.log_prob(distribution.sample())
    assert distribution.params[0].shape == (STATES,) and not distribution.params[0].requires_grad
    distribution.update(torch.randn(2, 6))
    with pytest.raises(PenstockError, match="Call log_prob"):
        _ = distribution.params
    with pytest.raises(PenstockError, match="not conditioned on any state"):
        CouplingFlowDistribution(2).sample()


def test_the_spread_is_that_of_draws_and_costs_no_randomness():
    distribution = conditioned(states=500)
    before = torch.get_rng_state()
    std = distribution.std
    assert torch.equal(before, torch.get_rng_state()) and std.shape == (500, 3)
    draws = torch.stack([distribution.sample() for _ in range(64)])
    torch.testing.assert_close(std[0], draws.var(dim=0).mean(dim=0).sqrt(), rtol=0.3, atol=0.0)
    distribution.update(torch.randn(7, 11, 6))  # recurrent models have an axis of time
    assert distribution.std.shape == distribution.mean.shape == distribution.sample().shape == (7, 11, 3)
    assert distribution.log_prob(distribution.sample()).shape == distribution.entropy.shape == (7, 11)


# ------------------------------------------------------------------ the bound, and the guards


@pytest.mark.parametrize(("size", "layers"), [(4, 4), (5, 3), (1, 2)])
@pytest.mark.parametrize("scale_bound", BOUNDS[:3])
def test_the_bound_holds_under_weights_of_any_size(size, layers, scale_bound):
    distribution = conditioned(
        size, weights=100.0, coupling_layers=layers, bound=0.5, scale_bound=scale_bound, base_std=None
    )
    flow = distribution.flow
    _, log_det = flow.push(distribution._condition, torch.randn(STATES, size))
    assert log_det.abs().max() <= 0.5 * layers * math.ceil(size / 2) * (1 + 1e-6)


def test_a_ratio_that_overflows_costs_its_own_sample_alone():
    """PPO's loss, with one old log-density far below the new one, for advantages of both signs."""

    def gradients(distribution, actions, old, advantages):
        distribution.update(states[: len(actions)])
        ratio = torch.exp(distribution.log_prob(actions) - old)
        surrogate = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)).sum()
        return torch.autograd.grad(surrogate, list(distribution.parameters()))

    distribution = conditioned()
    states, actions = torch.randn(4, 6), torch.randn(4, 3)
    distribution.update(states)
    old = distribution.log_prob(actions).detach()
    expected = gradients(distribution, actions[:3], old[:3], torch.ones(3))
    for sign in (1.0, -1.0):
        far, advantages = old.clone(), torch.ones(4)
        far[3], advantages[3] = old[3] - 200.0, sign
        found = gradients(distribution, actions, far, advantages)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_actions_that_are_not_finite_are_told():
    spoilt = conditioned()
    with torch.no_grad():
        spoilt.flow.couplings[1].network[0].weight[0, 0] = math.nan
    with pytest.raises(PenstockError, match=r"the flow's weights hold NaN or infinity: training has diverged\. Lower"):
        spoilt.sample()
    given = conditioned()
    given.update(torch.full((2, 6), math.nan))
    with pytest.raises(PenstockError, match="what the MLP says of the observations is not finite"):
        given.sample()
    unbounded = conditioned(scale_bound="none", weights=100.0)
    with pytest.raises(PenstockError, match=r"the flow overflows.*scale_bound = none is known to explode: take tanh"):
        unbounded.sample()


def test_densities_are_exact_under_mixed_precision():
    distribution = conditioned()
    outputs, actions = torch.randn(STATES, 6).bfloat16(), torch.randn(STATES, 3)
    distribution.update(outputs.float())
    expected = distribution.log_prob(actions), distribution.deterministic_output(outputs.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distribution.update(outputs)
        found = distribution.log_prob(actions), distribution.deterministic_output(outputs)
        assert distribution.entropy.dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_room_needs_no_jax():
    code = "import penstock.rsl_rl, sys; print([name for name in ('jax', 'equinox') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
