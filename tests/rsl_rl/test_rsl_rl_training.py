"""rsl_rl's own runner, unmodified, trains, saves, loads and exports the coupling flow."""

import copy
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("rsl_rl.runners")

import jax.numpy as jnp
import numpy as np
import torch
from rsl_rl.runners import OnPolicyRunner

import penstock
from penstock.observation import Observation
from penstock.rsl_rl.weights import load_weights
from tests.vec_env import Points

PAGE = Path(__file__).parents[2] / "docs/rsl_rl.md"

FLOW = {
    "class_name": "penstock.rsl_rl:CouplingFlowDistribution",
    "context_size": 16,
    "coupling_hidden": [16],
    "base_std": 0.8,
}
GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.8}
CONFIG = {
    "num_steps_per_env": 25,
    "save_interval": 1000,
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": {"class_name": "MLPModel", "hidden_dims": [32], "obs_normalization": True, "distribution_cfg": FLOW},
    "critic": {"class_name": "MLPModel", "hidden_dims": [32], "obs_normalization": True},
    "algorithm": {"class_name": "PPO", "entropy_coef": 0.002, "learning_rate": 1e-3, "desired_kl": 0.01},
}


def runner_of(distribution, folder=None, *, actor=None, algorithm=None):
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIG)
    config["actor"] |= {"distribution_cfg": dict(distribution), **(actor or {})}
    config["algorithm"] |= algorithm or {}
    return OnPolicyRunner(Points(), config, log_dir=None if folder is None else str(folder))


def returns(runner):
    """Mean return of one episode of each environment, with noise and without."""
    means = []
    for stochastic in (True, False):
        env, total = Points(256, seed=1), 0.0
        for _ in range(env.max_episode_length):
            with torch.inference_mode():
                actions = runner.alg.actor(env.get_observations(), stochastic_output=stochastic)
            total += env.step(actions)[1].mean().item()
        means.append(total)
    return means


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A runner after 30 iterations, its returns before and after, and the rate of every iteration."""
    folder = tmp_path_factory.mktemp("rsl_rl")
    runner = runner_of(FLOW, folder)
    before, rates = returns(runner), []
    for _ in range(15):
        runner.learn(2)
        rates.append(runner.alg.learning_rate)
        assert torch.isfinite(runner.alg.storage.actions_log_prob).all()
    return runner, before, returns(runner), rates, folder


def test_the_runner_trains_it(trained):
    runner, before, after, rates, _ = trained
    assert before[0] < -40.0 and before[1] < -12.0, "noise alone, and rest"
    assert min(after) > -4.0, after
    assert len({*rates}) > 5 and all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert all(torch.isfinite(weight).all() for weight in runner.alg.actor.parameters())
    flow = runner.alg.actor.distribution.flow
    assert all(layer.network[-1].weight.abs().max() > 1e-3 for layer in flow.couplings), "every layer has learned"
    assert (flow.log_std.exp() < 0.8).all(), "and the noise narrows"


def test_a_gaussian_in_its_place_learns_as_well(trained):
    """The harness is no harder and no easier for it."""
    runner = runner_of(GAUSSIAN)
    assert max(returns(runner)) < -12.0
    runner.learn(30)
    after = returns(runner)
    assert min(after) > -4.0 and abs(after[1] - trained[2][1]) < 1.0, (after, trained[2])


def test_a_checkpoint_brings_it_back(trained):
    """Weights of the flow, moments of the optimiser, statistics of observations; and training goes on."""
    runner, _, _, _, folder = trained
    runner.save(str(folder / "model.pt"))
    other = runner_of(FLOW)
    assert returns(other) != returns(runner)
    other.load(str(folder / "model.pt"))
    obs = Points(32, seed=2).get_observations()
    results = []
    for actor in (runner.alg.actor, other.alg.actor):
        torch.manual_seed(1)
        with torch.no_grad():
            actions = actor(obs, stochastic_output=True)
            results.append((actions, actor.get_output_log_prob(actions), actor(obs), actor.output_std))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    assert not any("kept" in name or "noises" in name for name in runner.alg.actor.state_dict())
    other.learn(1)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("base_std", [0.8, None])
def test_exported_policies_act_as_it_does(tmp_path, squash, base_std):
    """By rsl_rl's own two exporters, with its normaliser."""
    onnxruntime = pytest.importorskip("onnxruntime")
    runner = runner_of({**FLOW, "squash": squash, "base_std": base_std, "scale_bound": "scaled-tanh"})
    runner.learn(2)
    actor = runner.alg.actor.eval()
    with torch.no_grad():
        for weight in actor.distribution.parameters():
            weight.normal_(std=1.0 / math.sqrt(weight.shape[-1]))
    runner.export_policy_to_jit(str(tmp_path))
    runner.export_policy_to_onnx(str(tmp_path))
    obs = Points(64, seed=3).get_observations()
    with torch.no_grad():
        expected = actor(obs).numpy()
        module = actor.distribution.as_deterministic_output_module()
        context = actor.mlp(actor.obs_normalizer(obs["policy"]))
        for weight in actor.parameters():
            weight.zero_()
        np.testing.assert_allclose(module(context).numpy(), expected, atol=1e-6)  # it has its own copy
    scripted = torch.jit.load(str(tmp_path / "policy.pt"))(obs["policy"]).detach().numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    rows = [session.run(None, {"obs": row[None].numpy()})[0] for row in obs["policy"]]
    np.testing.assert_allclose(scripted, expected, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-5)
    assert expected.std(axis=0).min() > 0.01


def test_the_first_ratio_is_one(monkeypatch):
    """What is stored while acting is what the update computes anew before its first step.

    Without statistics of observations, which rsl_rl 5.0 moves while it acts.
    """
    once = {"num_mini_batches": 1, "num_learning_epochs": 1}
    runner = runner_of({**FLOW, "squash": True}, actor={"obs_normalization": False}, algorithm=once)
    found, actor = [], runner.alg.actor
    divergence = actor.distribution.kl_divergence

    def seen(old, new):
        found.append((old[0] - new[0]).abs().max().item())
        return divergence(old, new)

    monkeypatch.setattr(actor.distribution, "kl_divergence", seen)
    with torch.no_grad():
        for weight in actor.distribution.parameters():
            weight.normal_(std=0.5 / math.sqrt(weight.shape[-1]))
    runner.learn(2)
    assert len(found) == 2 and found[0] < 1e-4, found


@pytest.mark.parametrize(
    ("actor", "algorithm"),
    [
        ({"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 8, "rnn_num_layers": 1}, {}),
        (
            {},
            {
                "symmetry_cfg": {
                    "data_augmentation_func": "tests.vec_env:mirrored",
                    "use_data_augmentation": True,
                    "use_mirror_loss": False,
                }
            },
        ),
        (
            {},
            {
                "symmetry_cfg": {
                    "data_augmentation_func": "tests.vec_env:mirrored",
                    "use_data_augmentation": False,
                    "use_mirror_loss": True,
                    "mirror_loss_coeff": 0.1,
                }
            },
        ),
    ],
    ids=["recurrent", "augmented", "mirror loss"],
)
def test_other_models_and_extensions_of_rsl_rl_take_it(actor, algorithm):
    runner = runner_of(FLOW, actor=actor, algorithm=algorithm)
    before = [weight.clone() for weight in runner.alg.actor.distribution.parameters()]
    rate = runner.alg.learning_rate
    runner.learn(2)
    after = list(runner.alg.actor.distribution.parameters())
    assert all(torch.isfinite(weight).all() for weight in after)
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert runner.alg.learning_rate != rate


def test_the_page_s_configuration_trains(tmp_path, monkeypatch):
    """docs/rsl_rl.md: its first block trains; its second brings the actor of a run, which trains on."""
    configured, brought = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(configured, str(PAGE), "exec"), names)
    runner = OnPolicyRunner(Points(), copy.deepcopy(names["train_cfg"]))
    first = Points(8).get_observations()
    assert (runner.alg.actor(first) == 0.0).all(), "it starts as one Gaussian"
    runner.learn(1)
    settings = {"window": 8, "epochs": 1, "minibatches": 1, "actor_hidden": (16, 8), "critic_hidden": (8,)}
    small = {"steps": 32, "num_envs": 4, "progress": False, "evaluate_every": 0}
    monkeypatch.chdir(tmp_path)
    penstock.train(
        "nfpo", "classic/double-integrator", world_options={"axes": 2}, run_dir="runs/nfpo", **small, **settings
    )
    exec(compile(brought, str(PAGE), "exec"), names)
    runner = OnPolicyRunner(Points(), names["train_cfg"])
    load_weights(runner.alg.actor, names["agent"])
    acted = names["agent"].mode(Observation(jnp.asarray(first["policy"].numpy()))).action
    np.testing.assert_allclose(runner.alg.actor(first).detach().numpy(), acted, atol=1e-5)
    assert np.abs(acted).max() > 1e-4
    runner.learn(1)
