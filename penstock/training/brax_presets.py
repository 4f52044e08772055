"""Settings of PPO for worlds in MJX and in Brax, as those who made the worlds tuned Brax's PPO for them.

Sources: ``mujoco_playground/config/{locomotion,manipulation,dm_control_suite}_params.py`` of
google-deepmind/mujoco_playground at d5e6b47, ``notebooks/training.ipynb`` of google/brax at 0b96d05, and, where both
are silent, the defaults of ``brax/training/agents/ppo/{train,networks,losses}.py`` there. What Brax does and Penstock
does not, or does otherwise, is listed in docs/ppo.md.
"""

import math
from typing import Any

_NO_CLIP = 1e9
"""A gradient norm that no gradient has: Brax clips none by default."""

_LOG_STD = math.log(math.log(2.0) + 0.001)
"""Brax's sigma is softplus(x) + 0.001, and x is about 0 at the start."""


def _brax_ppo(
    num_timesteps: int,
    num_envs: int,
    batch_size: int,
    unroll_length: int,
    num_updates_per_batch: int,
    discounting: float,
    learning_rate: float,
    entropy_cost: float,
    *,
    num_evals: int,
    policy: tuple[int, ...],
    value: tuple[int, ...] = (256,) * 5,
    num_minibatches: int = 32,
    clipping_epsilon: float = 0.3,
    max_grad_norm: float = _NO_CLIP,
) -> dict[str, Any]:
    """A preset from the arguments of Brax's ``ppo.train``, by their names there; defaults are Brax's, too."""
    return {
        "on-policy run": {
            "num_envs": num_envs,
            "steps": num_timesteps,
            "evaluate_every": num_timesteps // (num_evals - 1),  # one of them is before the first step
            "evaluation_episodes": 128,  # num_eval_envs
            "log_every": 1,
        },
        "on-policy": {
            # An iteration has batch_size * num_minibatches stretches of unroll_length steps.
            "window": batch_size * num_minibatches // num_envs * unroll_length,
            "epochs": num_updates_per_batch,
            "minibatches": num_minibatches,
            "discount": discounting,
            "gae_lambda": 0.95,
            "clip_range": clipping_epsilon,
            "entropy_coefficient": entropy_cost,
            "actor_learning_rate": learning_rate,
            "critic_learning_rate": learning_rate,  # there is one optimiser
            "gradient_clip": max_grad_norm,
            "actor_hidden": policy,
            "critic_hidden": value,
            "activation": "silu",
            "normalize_observations": True,
            "state_dependent_std": True,
            "initial_log_std": _LOG_STD,
        },
    }


_ROBOT = (512, 256, 128)


def _locomotion(
    millions: int = 100,
    num_evals: int = 10,
    *,
    wide: bool = True,
    discounting: float = 0.97,
    entropy_cost: float = 1e-2,
    clipping_epsilon: float = 0.3,
) -> dict[str, Any]:
    """``wide``: networks of 512, 256, 128, with ``privileged_state`` for the critic."""
    return _brax_ppo(
        millions * 1_000_000,
        8192,
        256,
        20,
        4,
        discounting,
        3e-4,
        entropy_cost,
        num_evals=num_evals,
        policy=_ROBOT if wide else (128,) * 4,
        value=_ROBOT if wide else (256,) * 5,
        clipping_epsilon=clipping_epsilon,
        max_grad_norm=1.0,
    )


def _biped(millions: int, num_evals: int) -> dict[str, Any]:
    return _locomotion(millions, num_evals, entropy_cost=0.005, clipping_epsilon=0.2)


def _suite(millions: int = 60, discounting: float = 0.995) -> dict[str, Any]:
    return _brax_ppo(millions * 1_000_000, 2048, 1024, 30, 16, discounting, 1e-3, 1e-2, num_evals=10, policy=(32,) * 4)


def _panda(policy: tuple[int, ...] = (32,) * 4, millions: int = 20) -> dict[str, Any]:
    return _brax_ppo(millions * 1_000_000, 2048, 512, 10, 8, 0.97, 1e-3, 2e-2, num_evals=4, policy=policy)


def _hand(millions: int, num_evals: int, discounting: float = 0.97) -> dict[str, Any]:
    return _brax_ppo(
        millions * 1_000_000,
        8192,
        256,
        40,
        4,
        discounting,
        3e-4,
        1e-2,
        num_evals=num_evals,
        policy=_ROBOT,
        value=_ROBOT,
    )


_SUITE = (
    *("AcrobotSwingup", "AcrobotSwingupSparse", "BallInCup", "CartpoleBalance", "CartpoleBalanceSparse"),
    *("CartpoleSwingup", "CartpoleSwingupSparse", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard"),
    *("FishSwim", "HopperHop", "HopperStand", "HumanoidRun", "HumanoidStand", "HumanoidWalk", "PendulumSwingup"),
    *("PointMass", "ReacherEasy", "ReacherHard", "SwimmerSwimmer6", "WalkerRun", "WalkerStand", "WalkerWalk"),
)

_TASKS: dict[str, dict[str, Any]] = {
    # Locomotion. H1, Spot, Barkour and OP3 have the defaults, which are also those of what is not listed.
    "": _locomotion(wide=False),
    "Go1JoystickFlatTerrain": _locomotion(200),
    "Go1JoystickRoughTerrain": _locomotion(200),
    "Go1Handstand": _locomotion(100, 5),
    "Go1Footstand": _locomotion(100, 5),
    "Go1Backflip": _locomotion(200, discounting=0.95),
    "Go1Getup": _locomotion(50, 5),
    "G1JoystickFlatTerrain": _biped(200, 20),
    "G1JoystickRoughTerrain": _biped(200, 20),
    "T1JoystickFlatTerrain": _biped(200, 20),
    "T1JoystickRoughTerrain": _biped(200, 20),
    "ApolloJoystickFlatTerrain": _biped(200, 20),
    "BerkeleyHumanoidJoystickFlatTerrain": _biped(150, 15),
    "BerkeleyHumanoidJoystickRoughTerrain": _biped(150, 15),
    # Manipulation.
    "AlohaHandOver": _brax_ppo(
        100_000_000, 2048, 512, 15, 8, 0.97, 1e-3, 2e-2, num_evals=25, policy=(256,) * 3, max_grad_norm=1.0
    ),
    "AlohaSinglePegInsertion": _brax_ppo(
        150_000_000, 1024, 512, 40, 8, 0.97, 3e-4, 1e-2, num_evals=10, policy=(256,) * 4
    ),
    "PandaOpenCabinet": _panda(millions=40),
    "PandaPickCube": _panda(),
    "PandaPickCubeOrientation": _panda(),
    "PandaPickCubeCartesian": _brax_ppo(
        *(5_000_000, 1024, 256, 10, 8, 0.97, 5e-4, 7.5e-3),
        num_evals=5,
        policy=(256,) * 2,
        num_minibatches=8,
        max_grad_norm=1.0,
    ),
    "PandaRobotiqPushCube": _brax_ppo(
        1_800_000_000, 8192, 512, 100, 8, 0.994, 6e-4, 1e-2, num_evals=10, policy=(64,) * 4
    ),
    "LeapCubeRotateZAxis": _hand(100, 10),
    "LeapCubeReorient": _hand(200, 20, 0.99),
    "AeroCubeRotateZAxis": _hand(300, 10),
    # The DMControl suite. An exception for "PendulumSwingUp" meets no task there, whose name is PendulumSwingup.
    **dict.fromkeys(_SUITE, _suite()),
    **dict.fromkeys(("AcrobotSwingup", "AcrobotSwingupSparse", "SwimmerSwimmer6", "WalkerRun"), _suite(100)),
    **dict.fromkeys(("BallInCup", "FingerSpin"), _suite(discounting=0.95)),
}


def _brax(millions: int, num_evals: int, num_envs: int, batch: int, *rest: Any, num_minibatches: int = 32) -> Any:
    """With Brax's default networks."""
    return _brax_ppo(
        *(millions * 1_000_000, num_envs, batch, *rest),
        num_evals=num_evals,
        policy=(32,) * 4,
        num_minibatches=num_minibatches,
    )


_BRAX = {
    "": _brax(50, 10, 4096, 2048, 5, 4, 0.97, 3e-4, 1e-2),  # those of ant; hopper and walker2d have SAC's there
    "ant": _brax(50, 10, 4096, 2048, 5, 4, 0.97, 3e-4, 1e-2),
    "halfcheetah": _brax(50, 20, 2048, 512, 20, 8, 0.95, 3e-4, 1e-3),
    "humanoid": _brax(50, 10, 2048, 1024, 10, 8, 0.97, 3e-4, 1e-3),
    "humanoidstandup": _brax(100, 20, 2048, 1024, 15, 8, 0.97, 6e-4, 1e-2),
    "inverted_pendulum": _brax(2, 20, 2048, 1024, 5, 4, 0.97, 3e-4, 1e-2),
    "inverted_double_pendulum": _brax(20, 20, 2048, 1024, 5, 4, 0.97, 3e-4, 1e-2),
    "pusher": _brax(50, 20, 2048, 512, 30, 8, 0.95, 3e-4, 1e-2, num_minibatches=16),
    "reacher": _brax(50, 20, 2048, 256, 50, 8, 0.95, 3e-4, 1e-3),
}

BRAX_PRESETS: dict[str, dict[str, Any]] = {
    **{f"playground/{task}": content for task, content in _TASKS.items()},
    **{f"jax/brax:{task}": content for task, content in _BRAX.items()},
}
"""Presets by the name of a world; those that end in a slash or a colon are of all worlds below that have none."""
