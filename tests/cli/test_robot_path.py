"""From training to a file that moves a body in C MuJoCo, for every class: trained, exported, checked, played."""

import json
import re

import pytest

import penstock as library
from tests.conftest import most_optimizations_off

ON_POLICY = {"window": 16, "minibatches": 2, "epochs": 1, "actor_hidden": (8,), "critic_hidden": (8,)}
OFF_POLICY = {"batch_size": 8, "warmup_steps": 16, "actor_hidden": (8,), "critic_hidden": (8,), "replay_capacity": 64}
TRAINED = {
    "Gaussian": ("ppo", ON_POLICY),
    "recurrent Gaussian": ("ppo", {**ON_POLICY, "minibatches": 1, "recurrent": "gru", "recurrent_size": 4}),
    "coupling flow": ("nfpo", ON_POLICY),
    "noisy flow": ("ppo", {**ON_POLICY, "policy": "noisy-flow"}),
    "marginal flow": ("ppo", {**ON_POLICY, "policy": "marginal-flow"}),
    "deterministic": ("td3", OFF_POLICY),
    "velocity flow": ("flowrl", {**OFF_POLICY, "critic_hidden": (8, 8, 8)}),
    "Flow-G": ("sac-flow", {**OFF_POLICY, "velocity": "gated"}),
    "Flow-T": ("sac-flow", {**OFF_POLICY, "velocity": "decoded"}),
    "chunks": ("sac", {**OFF_POLICY, "chunk_length": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_policy_goes_from_training_to_a_body(name, penstock, tmp_path):
    algorithm, settings = TRAINED[name]
    fields = {"steps": 64, "num_envs": 2, "evaluate_every": 0, "progress": False}
    with most_optimizations_off(True):
        library.train(algorithm, "gym/Reacher-v5", run_dir=tmp_path / "run", **fields, **settings)
    kinds = ("numpy", "onnx", "stablehlo")
    modes = ("deterministic",) if name == "deterministic" else ("deterministic", "noise-fed")
    for mode in modes:
        returns = set()
        for kind in kinds:
            path = tmp_path / f"{mode}.{'npz' if kind == 'numpy' else kind}"
            code, out, err = penstock(
                "export", tmp_path / "run", "--to", kind, "--mode", mode, "--output", path, "--check"
            )
            assert code == 0, err
            assert float(re.search(r"largest difference ([\d.e+-]+)", out).group(1)) < 1e-5, out
            code, out, err = penstock("play", path, "--no-video", "--json")
            assert code == 0, err
            (episode,) = json.loads(out)["episodes"]
            assert episode["steps"] == 50
            returns.add(round(episode["return"], 2))
        assert max(returns) - min(returns) <= 0.011, "the same policy by three readers"
