"""Settings per world, in one readable place. Explicit options override them.

A preset has run fields (number of environments, budget) and settings for all algorithms of a family alike, so that arms
compared on a world share window, networks and critic; what belongs to one algorithm is listed under its name. Run
fields of one family alone are listed under ``FAMILY run``, where its settings belong to a number of environments.
"""

import math
from collections.abc import Mapping
from typing import Any

from penstock._errors import ConfigurationError, suggest
from penstock.algorithms.registry import ALGORITHMS, algorithm_entry
from penstock.training.brax_presets import BRAX_PRESETS

NUM_ENVS = 32
"""Environments where no preset says how many."""

_RFO_MANY_ACTIONS = {"flow_matching_reduction": "mean", "uniform_coefficient": 0.05}
"""Above about 50 actions the summed flow-matching loss drowns the return (docs/rfo.md)."""

_CLASSIC_RUN = {"num_envs": 64, "steps": 200_000, "evaluate_every": 20_480, "log_every": 10}
_CLASSIC = {
    "window": 16,
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "critic_learning_rate": 2e-3,
    "critic_passes": 8,
}

# Our own, for two CPU cores: 64 environments share a control step, and each brings 8 gradient steps of small networks.
_CLASSIC_OFF_POLICY = {
    "collect_steps": 16,
    "updates_per_step": 8,
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "batch_size": 128,
}
# Our own: 2,048 steps per iteration, as Stable-Baselines3 has them of one environment.
_CLASSIC_ON_POLICY = {
    "window": 32,
    "epochs": 8,
    "minibatches": 8,
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
_CLASSIC_FLOWRL = {"critic_hidden": (64, 64, 64, 64)}  # two of its layers have no activation

# What users of these suites do: one environment, a gradient step per control step, 1M steps, evaluation every 10,000.
# The algorithms' own settings are the defaults of their configuration classes, from
#   ppo       Stable-Baselines3's PPO, with observations normalised as its zoo does for MuJoCo; nfpo: the same
#   sac       Haarnoja et al. 2018 (arXiv 1812.05905), learning rates of 3e-4 as there and in SB3's SAC
#   td3       Fujimoto et al. 2018 (arXiv 1802.09477)
#   crossq    Bhatt et al., ICLR 2024, critics 1024 wide as in SBX; Adam's first decay 0.5, actor every third step
#   flowrl    arXiv 2506.12811 and, where it is silent, bytedance/FlowRL at e26279b (docs/flowrl.md)
#   sac-flow  arXiv 2509.25756 and, for its CrossQ base, Elessar123/SAC-FLOW at 3df8b9d (docs/sac_flow.md)
# The last three were published with wide critics, which cost hours on a CPU: see "light".
_HOSTED_RUN = {"num_envs": 1, "steps": 1_000_000, "evaluate_every": 10_000, "evaluation_episodes": 10, "log_every": 10}
_HOSTED = {"collect_steps": 100}

PRESETS: dict[str, dict[str, Any]] = {
    "gym/": {"run": _HOSTED_RUN, "off-policy": _HOSTED},
    "dmc/": {"run": _HOSTED_RUN, "off-policy": _HOSTED},
    # Expectile 0.8: the comment in FlowRL's released configuration for tasks of HumanoidBench that it does not list.
    "humanoidbench/": {"run": _HOSTED_RUN, "off-policy": _HOSTED, "flowrl": {"expectile": 0.8}},
    # Source: the configuration that learned in our prototype of the body; networks, critic and learning rates shared
    # by all arms. Tuned with equal effort for RFO, SHAC, SHAC2 and SAPO (benchmarks/tuning.py; docs/results.md). SHAC
    # keeps its fast target (0.2): its slow one (0.995) belongs to budgets of thousands of iterations.
    "soft/jumper-mini": {
        "run": {"num_envs": 16, "steps": 200_000, "evaluate_every": 15_360, "log_every": 10},
        "pathwise": {
            "window": 16,
            "actor_hidden": (64, 64),
            "critic_hidden": (64, 64),
            "actor_learning_rate": 4e-3,
            "critic_learning_rate": 2e-3,
            "critic_passes": 8,
            "critic_minibatches": 1,
            "initial_log_std": 0.0,  # the Gaussian starts with the action law with which the flow starts
        },
        "sapo": {"initial_temperature": 0.2, "gradient_clip": 1.0},
        # With the past term, or with half the uniform term, some seeds stay in a poor gait (docs/notebook.md).
        "rfo": {
            "flow_matching_reduction": "mean",
            "past_coefficient": 0.0,
            "uniform_coefficient": 0.1,
            "stepper": "midpoint",
            "flow_steps": 2,
        },
        "off-policy": {"replay_capacity": 50_000},  # 180 MB
        "on-policy": {"window": 128, "minibatches": 8},
    },
    # Source: SAPO's published settings for SoftJumper (arXiv 2412.12089).
    "soft/jumper": {
        "run": {"num_envs": 32, "steps": 6_144_000, "evaluate_every": 102_400, "log_every": 10},
        "pathwise": {"window": 32, "actor_hidden": (512, 256), "critic_hidden": (256, 256)},
        "shac": {"target_mixing": 0.995},
        "rfo": _RFO_MANY_ACTIONS,
        "off-policy": {"replay_capacity": 20_000},  # 280 MB
        "on-policy": {"window": 64, "minibatches": 8},
    },
    "classic/": {
        "run": _CLASSIC_RUN,
        "pathwise": _CLASSIC,
        "on-policy": _CLASSIC_ON_POLICY,
        "off-policy": _CLASSIC_OFF_POLICY,
        "flowrl": _CLASSIC_FLOWRL,
    },
    # Episodes of 8 steps.
    "classic/deceptive-basins": {
        "run": _CLASSIC_RUN,
        "pathwise": {**_CLASSIC, "window": 8},
        "on-policy": _CLASSIC_ON_POLICY,
        "off-policy": _CLASSIC_OFF_POLICY,
        "flowrl": _CLASSIC_FLOWRL,
    },
    **BRAX_PRESETS,
}

_HOSTED_FAMILIES = ("gym/", "dmc/", "humanoidbench/")

# Stable-Baselines3's PPO (DLR-RM/stable-baselines3 at e05d2db, stable_baselines3/ppo/ppo.py), as the defaults of the
# configuration are; written out, because a world's own preset may say otherwise. Its Gaussian starts with sigma = 1.
_SB3 = {
    "epochs": 10,
    "minibatches": 32,  # of 64
    "discount": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "entropy_coefficient": 0.0,
    "value_clip": None,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "kl_target": None,
    "gradient_clip": 0.5,
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "activation": "tanh",
    "normalize_observations": True,  # as its zoo does for MuJoCo
    "state_dependent_std": False,
    "initial_log_std": 0.0,
}

_LIGHT_TEMPERATURE = {"temperature_learning_rate": 1e-3, "initial_temperature": 0.2}

# Our own, for two CPU cores: four environments share a control step and bring two gradient steps of small networks. All
# arms have the same widths, learning rates and batches; CrossQ and SAC Flow take SAC's actor steps, and SAC Flow has
# SAC's targets. No arm was tuned: the values are one guess for all. CrossQ's batch renormalisation begins after 100,000
# calls, as published, so that runs of this length see plain batch normalisation.
_LIGHT = {
    "run": {"num_envs": 4, "steps": 100_000, "evaluate_every": 10_000, "evaluation_episodes": 5, "log_every": 10},
    "off-policy": {
        "collect_steps": 25,
        "updates_per_step": 2,
        "batch_size": 128,
        "warmup_steps": 2_000,
        "actor_hidden": (128, 128),
        "critic_hidden": (128, 128),
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
    },
    "flowrl": {"critic_hidden": (128, 128, 128, 128)},
    "sac": _LIGHT_TEMPERATURE,
    "crossq": {**_LIGHT_TEMPERATURE, "policy_delay": 1, "adam_betas": (0.9, 0.999)},
    "sac-flow": {**_LIGHT_TEMPERATURE, "policy_delay": 1, "adam_betas": (0.9, 0.999), "critic": "target"},
    "sac-flow-decoded": {"actor_hidden": (64,)},  # as published; 128 would be four times an MLP's work
    "on-policy": {**_SB3, "window": 512},  # 2,048 steps of four environments, as there of one
}

# rsl_rl's PPO (leggedrobotics/rsl_rl at c281c32, rsl_rl/algorithms/ppo.py, and rsl_rl/modules/distribution.py for the
# Gaussian); window, networks and normalised observations, which it leaves to its users, as MuJoCo Playground gives them
# (mujoco_playground/config/locomotion_params.py at d5e6b47, rsl_rl_config). Numbers of environments and budgets are the
# world's. Hosted worlds have one environment, of which 24 steps are no iteration: there 64, ours.
_RSL_RL = {
    "run": {},
    "hosted run": {"num_envs": 64},
    "on-policy": {
        "window": 24,
        "epochs": 5,
        "minibatches": 4,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "entropy_coefficient": 0.01,
        "value_clip": 0.2,  # its clip_param, for values too
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "kl_target": 0.01,
        "gradient_clip": 1.0,
        "actor_hidden": (512, 256, 128),
        "critic_hidden": (512, 256, 128),
        "activation": "elu",
        "normalize_observations": True,
        "state_dependent_std": False,
        "initial_log_std": 0.0,
        "squash": "clip",  # it acts with the unbounded sample
    },
}

NAMED: dict[str, dict[str, Any]] = {"light": _LIGHT, "rsl-rl": _RSL_RL}
"""Settings that are chosen by name (``--preset``), in place of those of the world."""

RELEASED = {"flowrl": {"released": "is an algorithm of its own now. Train benchmarks/released_flowrl.py:FlowRL."}}
"""Former presets by algorithm and name, and what took their place."""


def has_light(algorithm: str) -> bool:
    """Whether there are light settings for an algorithm."""
    return algorithm_entry(algorithm).family in NAMED["light"]


def named_preset(
    algorithm: str, name: str, velocity: str = "", world: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run fields and settings of a preset that is chosen by name.

    Args:
        algorithm: name of a registered algorithm, or of one that takes no presets.
        name: of the preset; dashes and underscores are alike.
        velocity: chosen velocity field, where a preset depends on it (``ALGORITHM-VELOCITY`` in `NAMED`).
        world: name of the world.

    Raises:
        ConfigurationError: the algorithm has no such preset.
    """
    entry = algorithm_entry(algorithm)
    shared = {key: content for key, content in NAMED.items() if entry.family in content}
    name = name.replace("_", "-")
    default = entry.config().flat().get("velocity", "")
    if name in RELEASED.get(algorithm, {}):
        raise ConfigurationError(f"preset = '{name}': {RELEASED[algorithm][name]}")
    if name in NAMED and name not in shared:
        families = " and ".join(sorted({entry.family for entry in ALGORITHMS.values()} & set(NAMED[name])))
        raise ConfigurationError(f"preset = '{name}' is for {families} algorithms, not for {algorithm}; leave it out.")
    if name not in shared:
        hint = suggest(name, shared) if shared else " It has none; leave --preset out."
        raise ConfigurationError(f"preset = '{name}': {algorithm} has no such preset.{hint}")
    content = shared[name]
    run = {**content["run"], **(content.get("hosted run", {}) if world.startswith(_HOSTED_FAMILIES) else {})}
    own_of_velocity = content.get(f"{algorithm}-{velocity or default}", {})
    return run, {**content[entry.family], **content.get(algorithm, {}), **own_of_velocity}


def preset(
    algorithm: str,
    world: str,
    name: str = "",
    chosen: Mapping[str, Any] | None = None,
    num_envs: Any = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run fields and settings for an algorithm on a world; empty where nothing is known about the world.

    An entry whose name ends in a slash or a colon applies to all worlds below it that have no entry of their own.

    Presets are made for policies without memory, whose minibatches are single steps. Those of a recurrent one are whole
    windows of environments: where their number was not chosen there are as many as divide the environments.

    Args:
        algorithm: name of the algorithm.
        world: name of the world.
        name: a preset that is chosen by name; its values replace those of the world.
        chosen: settings that were chosen, on some of which others depend: ``velocity`` (see `named_preset`) and
            ``recurrent``.
        num_envs: number of environments, if it was chosen; as somebody gave it, and refused where the plan is made.
    """
    chosen = chosen or {}
    algorithm = algorithm_entry(algorithm).learner.presets_of or algorithm
    entry, family = _entry(world), algorithm_entry(algorithm).family
    run = {**entry.get("run", {}), **entry.get(f"{family} run", {})}
    settings = {**entry.get(family, {}), **entry.get(algorithm, {})}
    if name:
        named_run, named_settings = named_preset(algorithm, name, str(chosen.get("velocity") or ""), world)
        run, settings = {**run, **named_run}, {**settings, **named_settings}
    if chosen.get("recurrent", "none") != "none" and "minibatches" not in chosen:
        minibatches = settings.get("minibatches") or algorithm_entry(algorithm).config().flat().get("minibatches", 1)
        envs = num_envs if isinstance(num_envs, int) else run.get("num_envs", NUM_ENVS)
        settings["minibatches"] = math.gcd(envs, minibatches)
    return run, settings


def _entry(world: str) -> dict[str, Any]:
    if world.startswith("jax/playground:"):
        world = world.replace("jax/playground:", "playground/")
    package, family = (world.partition(mark)[0] + mark for mark in (":", "/"))
    return PRESETS.get(world) or PRESETS.get(package) or PRESETS.get(family) or {}
