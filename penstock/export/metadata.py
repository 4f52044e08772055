"""What people need to know of an exported policy: names, orders, units, rates, and where it comes from."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock._mapping_files import read_mapping
from penstock._own_sources import names_file
from penstock.export.controls import controls_of_simulation, controls_of_task
from penstock.export.decision import MEMORY, NEXT_MEMORY, ActionRange, Decision
from penstock.storage.store import Manifest
from penstock.training.parts import AGENT
from penstock.training.plan import RunPlan
from penstock.worlds import FunctionalWorld
from penstock.worlds.hosted.environments import states_timestep
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.pictures import model_and_data
from penstock.worlds.hosted.robot import actuators, observation_names, one_environment
from penstock.worlds.jax_packages.task import JaxTask

HISTORY_LAYOUT = {"order": "oldest first", "begins_with": "copies of the first"}
"""How a history is laid out, and what it is when an episode begins."""


def describe(plan: RunPlan, decision: Decision, manifest: Manifest, seed: int) -> dict[str, Any]:
    """The metadata of a policy, as JSON has it.

    ``observation``: ``size``, ``names`` in order, and sizes of ``points`` and ``pixels`` where there are any; where it
    is a history, its ``length``, how many numbers are ``sensed`` at each step, and how it is laid out and begins.
    ``action``: ``size``, ``names``, ``low`` and ``high`` in the environment's units, and ``chunk_length``: how many
    actions one decision gives. ``actuators``: of a model of MuJoCo's, in the order of its controls, each one's name,
    joint, default position, gear, control range, and the gain and bias of its force. ``controls``: offset and scale
    with which they follow from an action; None where that is not known. ``control``: time step in seconds, rate in Hz,
    and whether the environment states them: else they are assumed. ``world``, ``policy``, ``origin``: what
    it was trained in, what it is (``memory``: what it remembers), where it comes from.

    Args:
        plan: the run.
        decision: what is exported.
        manifest: of the checkpoint.
        seed: which of the run's seeds.
    """
    world, spec = decision.world, decision.world.observation_spec
    names, model, stated = [f"observation[{i}]" for i in range(spec.present)], None, True
    ends, controls = ActionRange.of(world), None
    if isinstance(world, HostedWorld):
        names, stated = observation_names(world), False
        with contextlib.suppress(Exception), one_environment(world) as env:  # a name is worth no failure
            names, model, stated = (
                observation_names(world, env),
                (model_and_data(env) or (None,))[0],
                states_timestep(env),
            )
            if not world.source.adjustments.single_instance:  # a robot is never moved for it
                controls = controls_of_simulation(env, np.asarray(ends.low), np.asarray(ends.high))
    elif isinstance(world, FunctionalWorld):
        model, task = world.task.mujoco_model, _jax_task(world.task)
        if task is not None:
            names, controls = task.observed_names, controls_of_task(task)
    motors = [] if model is None else actuators(model)
    fits = len(motors) == world.action_size
    observation: dict[str, Any] = {"size": spec.vector, "names": names_in_history(names, spec.history)}
    if spec.history > 1:
        observation["history"] = {"length": spec.history, "sensed": spec.present, **HISTORY_LAYOUT}
    if spec.points:
        observation["points"] = [spec.points, 3]
    if spec.pixels is not None:
        observation["pixels"] = list(spec.pixels)
    policy = plan.settings.policy
    return {
        "world": {"name": plan.world, "options": _options(plan), "constants": world.describe()},
        "observation": observation,
        "action": {
            "size": world.action_size,
            "names": [motor["name"] for motor in motors]
            if fits
            else [f"action[{i}]" for i in range(world.action_size)],
            "low": _numbers(ends.low),
            "high": _numbers(ends.high),
            "chunk_length": decision.agent.chunk_length,
        },
        "actuators": motors if fits else [],
        "controls": dataclasses.asdict(controls) if fits and controls is not None else None,
        "control": {
            "timestep": world.control_timestep,
            "rate": 1.0 / world.control_timestep,
            "stated": stated,
        },
        "policy": {
            "algorithm": plan.algorithm,
            "class": policy.policy,
            "settings": dataclasses.asdict(policy),
            "mode": decision.mode,
            "deterministic_action": decision.agent.deterministic.rule if decision.mode == "deterministic" else None,
            "noise_shape": list(decision.agent.actor.policy.noise_shape) if decision.mode == "noise-fed" else None,
            "memory": _memory(plan, decision),
            "observations_normalized": decision.agent.normalizer.enabled,
        },
        "origin": {
            "label": plan.label or plan.title,
            "seed": seed,
            "environment_steps": manifest.step,
            "config_hash": manifest.config_hash,
            "versions": dict(manifest.versions),
            "agent_sha256": sorted(file.sha256 for file in manifest.files.values() if file.part == AGENT),
        },
    }


def _jax_task(task: Any) -> JaxTask | None:
    """The environment of a JAX package under histories, randomisation and batches; None of other worlds."""
    while task is not None and not isinstance(task, JaxTask):
        task = getattr(task, "single", getattr(task, "inner", None))
    return task


def names_in_history(names: Sequence[str], length: int) -> list[str]:
    """Names of all numbers of a history: ``joint@-2``, ``joint@-1``, ``joint``, by control steps before the present."""
    ages = [f"@-{age}" for age in range(length - 1, 0, -1)]
    return [f"{name}{age}" for age in (*ages, "") for name in names]


def _memory(plan: RunPlan, decision: Decision) -> dict[str, Any] | None:
    """How a recurrent policy remembers; None of others."""
    if decision.agent.actor.recurrence is None:
        return None
    kind, size = plan.settings.recurrent.recurrent, decision.agent.actor.memory_size
    return {"cell": kind, "size": size, "input": MEMORY, "output": NEXT_MEMORY, "begins_with": "zeros"}


def _options(plan: RunPlan) -> dict[str, Any]:
    """Options of the world; what a file randomises by its content, for the policy travels alone."""
    options, file = dict(plan.world_options), plan.world_options.get("randomize")
    if isinstance(file, str) and names_file(file):
        options["randomize"] = read_mapping(Path(file))
    return options


def _numbers(values: np.ndarray) -> list[float]:
    return [float(value) for value in values]
