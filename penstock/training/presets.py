"""Settings per world, in one readable place. Explicit options override them.

A preset has run fields (number of environments, budget) and settings for all algorithms of a family alike, so that arms
compared on a world share window, networks and critic; what belongs to one algorithm is listed under its name.
"""

from typing import Any

from penstock.algorithms.registry import algorithm_entry

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

PRESETS: dict[str, dict[str, Any]] = {
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
        "rfo": {**_RFO_MANY_ACTIONS, "stepper": "midpoint", "flow_steps": 2},
        "off-policy": {"replay_capacity": 50_000},  # 180 MB
    },
    # Source: SAPO's published settings for SoftJumper (arXiv 2412.12089).
    "soft/jumper": {
        "run": {"num_envs": 32, "steps": 6_144_000, "evaluate_every": 102_400, "log_every": 10},
        "pathwise": {"window": 32, "actor_hidden": (512, 256), "critic_hidden": (256, 256)},
        "shac": {"target_mixing": 0.995},
        "rfo": _RFO_MANY_ACTIONS,
        "off-policy": {"replay_capacity": 20_000},  # 280 MB
    },
    "classic/": {"run": _CLASSIC_RUN, "pathwise": _CLASSIC, "off-policy": _CLASSIC_OFF_POLICY},
    # Episodes of 8 steps.
    "classic/deceptive-basins": {
        "run": _CLASSIC_RUN,
        "pathwise": {**_CLASSIC, "window": 8},
        "off-policy": _CLASSIC_OFF_POLICY,
    },
}


def preset(algorithm: str, world: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run fields and settings for an algorithm on a world; empty where nothing is known about the world.

    An entry whose name ends in a slash applies to all worlds below it that have no entry of their own.
    """
    entry = PRESETS.get(world) or PRESETS.get(world.partition("/")[0] + "/") or {}
    shared = entry.get(algorithm_entry(algorithm).family, {})
    return dict(entry.get("run", {})), {**shared, **entry.get(algorithm, {})}
