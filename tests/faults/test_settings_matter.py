"""No setting is silently ignored: each changes the program, or is refused (F28)."""

import functools
import re

import jax
import pytest
from driven import Driven
from tiny_runs import TINY

from penstock._errors import PenstockError
from penstock.algorithms.off_policy_config import OffPolicyConfig
from penstock.algorithms.registry import ALGORITHMS, family
from penstock.worlds import make_world

OTHER = {
    "activation": ("tanh", "elu"),
    "policy": ("gaussian", "deterministic"),
    "stepper": "heun",
    "velocity": ("gated", "mlp"),
    "scale_bound": "clip",
    "squash": "clip",
    "recurrent": "gru",
    "flow_matching_reduction": ("mean", "sum"),
    "critic": ("crossq", "target"),
}
"""Other values of settings that are names; the first that differs is taken."""

TINY_OFF_POLICY = {
    "batch_size": 8,
    "warmup_steps": 8,
    "collect_steps": 2,
    "replay_capacity": 32,
    "actor_hidden": (8,),
    "critic_hidden": (8, 8, 8),
}

TINY_ON_POLICY = {"window": 4, "epochs": 2, "minibatches": 2, "actor_hidden": (8,), "critic_hidden": (8,)}

SMALL = {"pathwise": TINY, "off-policy": TINY_OFF_POLICY, "on-policy": TINY_ON_POLICY}

SHARED = set(ALGORITHMS["shac2"].config().flat())


def changed(name, value):
    """Another value that is legal by itself."""
    if name in OTHER:
        others = OTHER[name] if isinstance(OTHER[name], tuple) else (OTHER[name],)
        return next(other for other in others if other != value)
    match value:
        case bool():
            return not value
        case None:
            return 0.5
        case int():
            return 2 * value
        case float():
            return value / 2 if value else 0.5
        case tuple() if name == "adam_betas":
            return (0.5, 0.6)
        case tuple():
            return (7,)
    raise AssertionError(f"no other value known for {name} = {value!r}")


@functools.cache
def fingerprint(algorithm, name=None):
    """The program of an algorithm with one setting changed, as text; or the refusal."""
    entry = ALGORITHMS[algorithm]
    config = entry.config.preset(SMALL[entry.family])
    if name is not None:
        value = changed(name, config.flat()[name])
        try:
            config = config.changed(**{name: value})
        except PenstockError as error:
            return f"refused: {error}"
    world = make_world("classic/double-integrator", 4, episode_length=10)
    try:
        learner = entry.learner(config, world, 10)
    except PenstockError as error:
        return f"refused: {error}"
    key, learner = jax.random.key(0), Driven(learner)
    state = jax.eval_shape(learner.init, key)
    begin = text(learner.init, key)
    if entry.family == "pathwise":
        begin += text(lambda state: learner.agent(state).mode(state.world.observation).action, state)
    if name is not None and begin != fingerprint(algorithm)[0]:
        return begin, ""
    return begin, text(learner.step, state)


def text(function, argument):
    """A program with its constants. Addresses of functions are no part of it."""
    program = jax.make_jaxpr(function)(argument)
    return re.sub(r"0x[0-9a-f]+", "", f"{program} {program.consts}")


def cases():
    """Shared settings with one Gaussian algorithm and, where flows read them, with RFO; own settings with their own."""
    for algorithm, entry in family("pathwise").items():
        for name in entry.config().flat():
            quick = name not in SHARED or algorithm == "shac2" or (algorithm == "rfo" and name == "policy")
            yield pytest.param(algorithm, name, marks=[] if quick else pytest.mark.slow)


def off_policy_cases():
    """What SAC has of its own; each of the others traces a program of its own, which takes minutes."""
    inherited = set(OffPolicyConfig().flat())
    for algorithm in ("sac", "td3", "crossq", "flowrl", "sac-flow"):
        names = ALGORITHMS[algorithm].config().flat()
        for name in names:
            quick = name not in inherited and algorithm == "sac"
            yield pytest.param(algorithm, name, marks=[] if quick else pytest.mark.slow)
        inherited |= set(names)


def on_policy_cases():
    """All of PPO's, and of NFPO's what its policy has."""
    for name in ALGORITHMS["ppo"].config().flat():
        yield "ppo", name
    for name in set(ALGORITHMS["nfpo"].config().flat()) - set(ALGORITHMS["ppo"].config().flat()):
        yield "nfpo", name


@pytest.mark.parametrize(("algorithm", "name"), [*cases(), *off_policy_cases(), *sorted(on_policy_cases())])
def test_a_setting_changes_the_program_or_is_refused(algorithm, name):
    fresh, other = fingerprint(algorithm), fingerprint(algorithm, name)
    if isinstance(other, str):
        assert name in other
        return
    assert fresh != other, f"{name} changes nothing in {algorithm}"


def test_the_same_settings_give_the_same_text():
    """Otherwise every comparison above would succeed."""
    fresh = fingerprint("shac2")
    fingerprint.cache_clear()
    assert fresh == fingerprint("shac2")
