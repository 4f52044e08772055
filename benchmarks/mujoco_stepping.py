"""Who steps C MuJoCo fastest: bare physics, `mujoco.rollout`, Gymnasium's vectors, Penstock's hosted worlds, EnvPool.

    python benchmarks/mujoco_stepping.py                  # prints tables, writes results/mujoco_stepping.json
    PYTHONPATH=CHECKOUT python benchmarks/mujoco_stepping.py --sides Penstock --output before.json     # of another one

Environment steps per second of CPU time, of all processes and threads together, and of wall time, with the same random
actions, after imports, compilation and a warm-up. All sides take turns, so that whoever else uses the machine disturbs
them alike. `mj_step` and `mujoco.rollout` do physics alone, ``frame_skip`` steps for each action: no observation, no
reward, no reset; they are the floor of what a vector of environments could cost. EnvPool is left out where it is
missing. Then, whether the sides compute the same.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from penstock.reports.tables import markdown_table
from penstock.worlds import make_world

WORLDS = ("HalfCheetah-v5", "Hopper-v5", "Ant-v5")
ACTIONS = 512


def mj_step_side(name: str, num_envs: int, threads: int) -> Callable[[np.ndarray], Any]:
    """Physics alone, one environment after the other."""
    import mujoco

    del threads
    model, states, skip = _model_and_states(name, num_envs)
    datas = [mujoco.MjData(model) for _ in range(num_envs)]
    for data, state in zip(datas, states, strict=True):
        mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)

    def step(action):
        for data, control in zip(datas, action, strict=True):
            data.ctrl[:] = control
            mujoco.mj_step(model, data, nstep=skip)
        return np.stack([data.qpos for data in datas])

    return step


def rollout_side(name: str, num_envs: int, threads: int) -> Callable[[np.ndarray], Any]:
    """The same in a pool of threads that lasts."""
    import mujoco
    from mujoco.rollout import Rollout

    model, states, skip = _model_and_states(name, num_envs)
    pool = Rollout(nthread=threads if threads > 1 else 0)
    models, datas = [model] * num_envs, [mujoco.MjData(model) for _ in range(threads)]
    after = np.empty((num_envs, skip, states.shape[1]))
    sensors = np.empty((num_envs, skip, model.nsensordata))
    state = states

    def step(action):
        nonlocal state
        control = np.repeat(action[:, None].astype(np.float64), skip, axis=1)
        pool.rollout(
            models, datas, state, control, nstep=skip, skip_checks=True, state=after, sensordata=sensors, chunk_size=1
        )
        state = after[:, -1].copy()
        return state[:, 1 : 1 + model.nq]  # behind the time

    return step


def loop_side(name: str, num_envs: int, threads: int) -> Callable[[np.ndarray], Any]:
    """Gymnasium's environments, one after the other, without anything around them."""
    import gymnasium

    del threads
    envs = [gymnasium.make(name) for _ in range(num_envs)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)

    def step(action):
        for env, one in zip(envs, action, strict=True):
            *_, terminated, truncated, _ = env.step(one)
            if terminated or truncated:
                env.reset()

    return step


def gymnasium_side(kind: str) -> Callable[[str, int, int], Callable[[np.ndarray], Any]]:
    """Gymnasium's own vectors, resets included."""

    def make(name, num_envs, threads):
        import gymnasium

        del threads
        envs = gymnasium.make_vec(name, num_envs, vectorization_mode=kind)
        envs.reset(seed=list(range(num_envs)))
        return envs.step

    return make


def hosted_side(kind: str) -> Callable[[str, int, int], Callable[[np.ndarray], Any]]:
    """Ours, as training steps it."""

    def make(name, num_envs, threads):
        options = {"num_threads": threads} if kind == "envpool" else {}
        world = make_world(f"gym/{name}", num_envs, vectorization=kind, **options)
        state = world.reset(jax.random.key(0))
        low, high = world.action_range

        def step(action):
            nonlocal state
            state, transition = world.step(state, 2.0 * (action - low) / (high - low) - 1.0)
            return transition

        return step

    return make


def _model_and_states(name: str, num_envs: int) -> tuple[Any, np.ndarray, int]:
    """The task's model, N states in which its episodes begin, and its ``frame_skip``."""
    import gymnasium
    import mujoco

    env = gymnasium.make(name).unwrapped
    kind = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
    states = np.empty((num_envs, mujoco.mj_stateSize(env.model, kind)))
    for seed in range(num_envs):
        env.reset(seed=seed)
        mujoco.mj_getState(env.model, env.data, states[seed], kind)
    return env.model, states, env.frame_skip


SIDES: dict[str, tuple[Callable[[str, int, int], Callable[[np.ndarray], Any]], tuple[int, ...]]] = {
    "mj_step, physics alone": (mj_step_side, (1,)),
    "mujoco.rollout, physics alone": (rollout_side, (1, 2)),
    "Gymnasium, env.step in a loop": (loop_side, (1,)),
    "Gymnasium SyncVectorEnv": (gymnasium_side("sync"), (1,)),
    "Penstock serial": (hosted_side("serial"), (1,)),
    "Gymnasium AsyncVectorEnv": (gymnasium_side("async"), (1,)),
    "Penstock processes": (hosted_side("processes"), (1,)),
    "EnvPool": (hosted_side("envpool"), (1, 2)),
}
"""How each side is made from a task, N and a number of threads; and the numbers of threads that it knows."""


def cpu_seconds() -> float:
    """Of this process with its threads, and of its living children."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def actions_of(name: str, num_envs: int) -> np.ndarray:
    """Random actions in the box of the task, ``(ACTIONS, N, d)``."""
    import gymnasium

    box = gymnasium.make(name).action_space
    random = np.random.default_rng(0)
    return random.uniform(box.low, box.high, (ACTIONS, num_envs, *box.shape)).astype(np.float32)


def measure(name: str, num_envs: int, seconds: float, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """Rates of all sides on one task, in turns of about so many wall seconds each."""
    actions = actions_of(name, num_envs)
    sides = {}
    for label, (make, numbers) in SIDES.items():
        if only not in label or (label == "EnvPool" and importlib.util.find_spec("envpool") is None):
            continue
        for threads in numbers:
            step = make(name, num_envs, threads)
            for index in range(20):
                step(actions[index])
            sides[label, threads] = step, []
    for _ in range(rounds):
        for step, rates in sides.values():
            count, cpu, wall = 0, cpu_seconds(), time.perf_counter()
            while time.perf_counter() - wall < seconds:
                for _ in range(10):
                    step(actions[count % ACTIONS])
                    count += 1
            rates.append((num_envs * count / (cpu_seconds() - cpu), num_envs * count / (time.perf_counter() - wall)))
    return [
        {
            "task": name,
            "environments": num_envs,
            "side": label,
            "threads": threads,
            "per_cpu_second": statistics.median(rate[0] for rate in rates),
            "per_second": statistics.median(rate[1] for rate in rates),
        }
        for (label, threads), (_, rates) in sides.items()
    ]


def differences(name: str, steps: int = 50) -> dict[str, float]:
    """The largest difference over some control steps.

    Of a position, between `mj_step` and `mujoco.rollout`; of an observation or a reward, between a hosted world and the
    environment itself, with its seed.
    """
    import gymnasium

    actions = actions_of(name, 4)
    reference, pool = mj_step_side(name, 4, 1), rollout_side(name, 4, 2)
    apart = max(np.abs(reference(action) - pool(action)).max() for action in actions[:steps])
    env = gymnasium.make(name)
    world = make_world(f"gym/{name}", 1)
    state = world.reset(jax.random.key(0))
    env.reset(seed=world._seeds(state.words, state.episode)[0])
    largest = 0.0
    low, high = world.action_range
    for action in actions[:steps, :1]:
        unit = (2.0 * (action - low) / (high - low) - 1.0).astype(np.float32)
        state, transition = world.step(state, unit)
        observation, reward, terminated, truncated, _ = env.step(world.declared.actions.from_unit(unit)[0])
        seen = np.asarray(transition.final_observation.vector[0])
        largest = max(largest, float(np.abs(seen - observation.astype(np.float32)).max()))
        largest = max(largest, abs(float(transition.reward[0]) - float(np.float32(reward))))
        if terminated or truncated:
            break
    return {"mujoco.rollout against mj_step": float(apart), "Penstock serial against Gymnasium": largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(WORLDS))
    parser.add_argument("--sides", default="", help="of those whose names hold this text")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "mujoco_stepping.json")
    options = parser.parse_args()
    record, equal = [], {}
    for name in options.tasks:
        record += measure(name, options.num_envs, options.seconds, options.rounds, options.sides)
        equal[name] = differences(name)
        print(f"{name} measured", file=sys.stderr, flush=True)
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for entry in record:
        row = rows.setdefault(
            (entry["side"], entry["threads"]), {"side": entry["side"], "threads": str(entry["threads"])}
        )
        row[entry["task"]] = f"{entry['per_cpu_second']:,.0f} ({entry['per_second']:,.0f})"
    print(markdown_table(list(rows.values())))
    print(json.dumps(equal, indent=1))
    packages = {p: version(p) for p in ("gymnasium", "mujoco", "numpy")}
    options.output.write_text(json.dumps({"packages": packages, "rows": record, "differences": equal}, indent=1) + "\n")


if __name__ == "__main__":
    main()
