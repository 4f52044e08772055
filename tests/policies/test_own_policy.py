"""A policy that somebody brings in a file: built, named from anywhere, refused in sentences."""

import pytest

from penstock._errors import ConfigurationError
from penstock.algorithms import shac2
from penstock.algorithms.registry import algorithm_entry
from penstock.cli.train import parse_train_options
from penstock.training.plan import from_config, make_plan
from penstock.training.sources import sources_of

CODE = """
import dataclasses
import equinox as eqx
import jax.numpy as jnp
from penstock.networks import MLP
from penstock.policies import Draw, Policy, PolicySettings

class Doubled(Policy):
    network: MLP
    flat_size: int = eqx.field(static=True)

    def draw(self, features, noise):
        latent = self.network(features) + 2.0 * noise
        return Draw(jnp.tanh(latent), latent)

@dataclasses.dataclass(frozen=True)
class Settings(PolicySettings):
    policy: str = ""
    gain: float = 0.5

    def build(self, key, feature_size, flat_size, trunk):
        return Doubled(MLP(key, feature_size, flat_size, trunk, self.gain), flat_size)

NUMBER = 3
"""


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_a_policy_in_a_file_is_a_full_citizen(place, monkeypatch):
    spec = f"{place}:Settings"
    plan = make_plan("shac2", "classic/double-integrator", settings={"policy": spec, "gain": 1.5, "window": 2})
    assert plan.settings.flat()["policy"] == spec and plan.settings.policy.gain == 1.5
    assert from_config(plan.to_config()) == plan
    learner = plan.make_learner(plan.make_world())
    assert type(learner.shapes().actor.policy).__name__ == "Doubled"
    monkeypatch.chdir(place.parent)
    here = make_plan("shac2", "classic/pendulum", settings={"policy": "mine.py:Settings", "gain": 2.0})
    assert here.settings.policy.policy == spec, "found from any directory"
    words = ["--world", "classic/pendulum", "--policy", "mine.py:Settings", "--gain", "3"]
    options = parse_train_options(algorithm_entry("shac2"), words)
    assert options.settings.policy.policy == spec and options.settings.policy.gain == 3.0
    before = sources_of(plan)
    place.write_text(f"{CODE}# edited")
    assert list(before) == ["policy_source"] and sources_of(plan) != before, "an edited policy is another one"
    changed = plan.settings.changed(window=4)
    assert changed.policy == plan.settings.policy and changed.window == 4


def test_what_is_no_policy_is_refused(place):
    with pytest.raises(ConfigurationError, match=r"mine.py' has no attribute 'Setings'.* Did you mean 'Settings'"):
        shac2.Config.of(policy=f"{place}:Setings")
    with pytest.raises(ConfigurationError, match="is 3, no subclass of PolicySettings"):
        shac2.Config.of(policy=f"{place}:NUMBER")
    with pytest.raises(ConfigurationError, match=r"There is no file 'nowhere\.py'"):
        shac2.Config.of(policy="nowhere.py:Settings")
    with pytest.raises(ConfigurationError, match=r"unknown field .gain."):
        shac2.Config.of(gain=1.0)
