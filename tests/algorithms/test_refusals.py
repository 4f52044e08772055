"""What is refused at construction, in a sentence; and that every setting is documented."""

import ast
import dataclasses
import inspect
import itertools
import math

import jax
import pytest
from tiny_worlds import MODULES, Pendulum, learner, world

from penstock._errors import CapabilityError, ConfigurationError
from penstock.algorithms.registry import ALGORITHMS, algorithm_entry, family
from penstock.networks import Trunk
from penstock.policies import FlowSettings, GaussianSettings
from penstock.worlds import make_world


class Rough(Pendulum):
    """A world that says of itself that gradients do not flow through it."""

    @property
    def differentiable(self):
        return False


@pytest.mark.parametrize("name", family("pathwise"))
def test_worlds_without_gradients_are_refused(name):
    with pytest.raises(CapabilityError, match=rf"{name} differentiates through the world, and 'tiny/pendulum' is not"):
        learner(name, world(Rough()))


def test_policies_that_cannot_do_what_is_needed_are_refused():
    with pytest.raises(CapabilityError, match=r"rfo needs a velocity field.*SquashedGaussian does not.*--policy flow"):
        learner("rfo", policy="gaussian")
    with pytest.raises(CapabilityError, match=r"rfo needs a velocity field.*SquashedGaussian does not"):
        learner("rfo", policy="gaussian", chunk_length=2)
    with pytest.raises(CapabilityError, match=r"sapo needs the log-density of its actions.*VelocityFlow does not"):
        learner("sapo", policy="flow")
    for name in ("apg", "shac", "shac2"):
        learner(name, policy="flow")  # needs samples only


@pytest.mark.parametrize("name", ["apg", "shac", "shac2", "sapo", "sac", "td3", "crossq", "sac-flow"])
def test_actions_that_are_clipped_have_no_gradient(name):
    entry = ALGORITHMS[name]
    config = dataclasses.replace(entry.config.preset({}, policy="gaussian"), policy=GaussianSettings().clipped())
    with pytest.raises(CapabilityError, match=rf"{name} needs .*a gradient of its actions.*Gaussian") as refused:
        entry.learner(config, make_world("classic/double-integrator", 16), 4)
    assert "take one that squashes by tanh" in str(refused.value) or name == "sapo"  # which lacks a density as well


def test_unknown_choices_are_refused_with_the_nearest_known_name():
    # Fields are set behind constructors that, where types are checked, refuse them already.
    with pytest.raises(ConfigurationError, match=r"^policy = 'gausian': unknown\. Did you mean 'gaussian'"):
        learner("shac2", policy="gausian")
    settings = FlowSettings()
    object.__setattr__(settings, "stepper", "eular")
    with pytest.raises(ConfigurationError, match=r"^stepper = 'eular': unknown\. Did you mean 'euler'"):
        settings.build(jax.random.key(0), 3, 2, Trunk((4,)))
    with pytest.raises(ConfigurationError, match=r"activation = 'sliu': unknown\. Did you mean 'silu'"):
        learner("rfo", activation="sliu")
    config = ALGORITHMS["rfo"].config()
    object.__setattr__(config, "flow_matching_reduction", "median")
    with pytest.raises(ConfigurationError, match=r"flow_matching_reduction = 'median': must be 'sum' or 'mean'"):
        config.__post_init__()
    with pytest.raises(ConfigurationError, match=r"Unknown algorithm 'sac2'.*Did you mean 'shac2'"):
        algorithm_entry("sac2")


OUT_OF_RANGE = {
    "window": (0, -4),
    "critic_passes": (0,),
    "critic_minibatches": (0,),
    "flow_steps": (0,),
    "chunk_length": (0, 3),
    "discount": (-0.1, 1.1, math.nan),
    "td_lambda": (-0.1, 1.1, math.nan),
    "actor_learning_rate": (0.0, -1.0, math.nan, math.inf),
    "critic_learning_rate": (0.0, -1.0, math.nan, math.inf),
    "final_learning_rate": (-1.0, math.nan, math.inf),
    "gradient_clip": (0.0, math.nan),
    "gradient_limit": (0.0, math.nan),
    "weight_decay": (-1.0, math.nan, math.inf),
    "initial_log_std": (math.nan, math.inf),
    "adam_betas": ((0.7, 1.0), (-0.1, 0.9), (math.nan, 0.9)),
    "actor_hidden": ((), (8, 0)),
    "critic_hidden": ((), (-1,)),
}
OWN_RANGES = [
    ("shac", "target_mixing", (-0.1, 1.1, math.nan)),
    ("sapo", "initial_temperature", (-1.0, math.nan, math.inf, 0.0)),
    ("sapo", "temperature_learning_rate", (0.0, math.nan, math.inf)),
    ("rfo", "past_coefficient", (-0.1, math.nan, math.inf)),
    ("rfo", "uniform_coefficient", (-0.1, math.nan, math.inf)),
]
CASES = [("rfo" if field == "flow_steps" else "shac2", field, values) for field, values in OUT_OF_RANGE.items()]
CASES += OWN_RANGES


@pytest.mark.parametrize(("name", "field", "values"), CASES)
def test_values_out_of_range_are_refused_by_name(name, field, values):
    for value in values:
        with pytest.raises(ConfigurationError, match=rf"^{field} = .*: "):
            ALGORITHMS[name].config.of(**{field: value})


def test_sizes_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigurationError, match=r"critic_minibatches = 3: must divide num_envs \* window = 16"):
        learner("shac2", critic_minibatches=3)
    with pytest.raises(ConfigurationError, match=r"chunk_length = 3: must divide window = 4"):
        learner("rfo", chunk_length=3)
    with pytest.raises(
        ConfigurationError, match=r"window = 8: must not exceed the episode length 6 of 'tiny/pendulum'"
    ):
        learner("apg", window=8)
    with pytest.raises(ConfigurationError, match=r"critic_minibatches: belongs to a critic, and there is none here"):
        learner("apg", critic_minibatches=3)
    told = r"flow_steps: does nothing with policy = 'gaussian'; it belongs to flow and noisy-flow and marginal-flow\."
    with pytest.raises(ConfigurationError, match=told):
        learner("shac", flow_steps=2)


def documented_fields(config):
    """Names of the annotated fields in the class body that a string follows."""
    body = ast.parse(inspect.getsource(config)).body[0].body
    return {
        field.target.id
        for field, after in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and len(str(after.value.value)) > 15
    }


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_is_documented(name):
    config = ALGORITHMS[name].config
    for part in config.__mro__[:-1]:
        assert set(inspect.get_annotations(part)) <= documented_fields(part), part
    everywhere = set().union(*map(documented_fields, config.__mro__[:-1]))
    assert {field.name for field in dataclasses.fields(config)} <= everywhere
    for part in config.all_parts():
        assert set(inspect.get_annotations(type(part))) <= documented_fields(type(part)), part


@pytest.mark.parametrize("name", MODULES)
def test_registry_holds_each_algorithm_under_its_own_name(name):
    entry = algorithm_entry(name)
    assert entry.config is MODULES[name].Config and entry.learner is MODULES[name].Learner
    assert entry.learner.name == name and entry.summary
