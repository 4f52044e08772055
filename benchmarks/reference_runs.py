"""Twenty iterations of every algorithm, number by number: whether a change of the code changed what it computes.

    python benchmarks/reference_runs.py record                 # writes benchmarks/results/reference_runs.json
    python benchmarks/reference_runs.py compare [CASE ...]     # the same runs now, beside what was recorded

Three seeds in one program, small networks, every metric of every block of five iterations and both evaluations. The
comparison is exact; it holds on the processor and with the versions that recorded, as another compiler orders sums
differently.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["PENSTOCK_CACHE"] = ""
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false"
from penstock._jax_setup import set_up_jax

set_up_jax()

import gymnasium  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

OUTPUT = Path(__file__).parent / "results" / "reference_runs.json"

PATHWISE = {"window": 8, "actor_hidden": (16,), "critic_hidden": (16,), "critic_passes": 2, "critic_minibatches": 1}
NO_CRITIC = {name: value for name, value in PATHWISE.items() if not name.startswith("critic")}
OFF_POLICY = {"collect_steps": 8, "warmup_steps": 32, "batch_size": 16, "replay_capacity": 4000, "updates_per_step": 2}
OFF_POLICY |= {"actor_hidden": (16,), "critic_hidden": (16, 16)}
ON_POLICY = {"window": 8, "epochs": 2, "minibatches": 2, "actor_hidden": (16,), "critic_hidden": (16,)}
FLOWRL = {"critic_hidden": (16, 16, 16, 16)}

HOSTED = f"{Path(__file__).resolve()}:Spring"
"""Known by its place; recorded without it."""

CASES: dict[str, tuple[str, str, dict, dict]] = {
    "apg jumper-mini": ("apg", "soft/jumper-mini", NO_CRITIC, {}),
    "apg pendulum": ("apg", "classic/pendulum", NO_CRITIC, {"episode_length": 37}),
    **{f"{name} jumper-mini": (name, "soft/jumper-mini", PATHWISE, {}) for name in ("shac", "sapo", "rfo")},
    **{
        f"{name} pendulum": (name, "classic/pendulum", PATHWISE, {"episode_length": 37})
        for name in ("shac", "shac2", "sapo", "rfo")
    },
    "shac2 chunks": ("shac2", "classic/cartpole-swingup", PATHWISE | {"chunk_length": 3, "window": 9}, {}),
    "rfo chunks": (
        "rfo",
        "classic/two-gap-wall",
        PATHWISE | {"chunk_length": 4, "past_coefficient": 0.1, "velocity": "mlp"},
        {},
    ),
    "rfo points": ("rfo", "soft/jumper-mini", PATHWISE | {"velocity": "gated"}, {"observation": "points"}),
    "rfo decoded": ("rfo", "classic/double-integrator", PATHWISE | {"velocity": "decoded", "stepper": "midpoint"}, {}),
    **{
        f"{name} {world.split('/')[1]}": (name, world, OFF_POLICY | more, {"episode_length": 37})
        for world in ("classic/pendulum", "classic/cartpole-swingup")
        for name, more in (("sac", {}), ("td3", {}), ("crossq", {}), ("flowrl", FLOWRL), ("sac-flow", {}))
    },
    "sac-flow decoded": ("sac-flow", "classic/pendulum", OFF_POLICY | {"velocity": "decoded"}, {}),
    "sac n-step": ("sac", "classic/pendulum", OFF_POLICY | {"n_step": 3}, {"episode_length": 37}),
    **{
        f"{name} hosted": (name, HOSTED, OFF_POLICY | more, {})
        for name, more in (("sac", {}), ("td3", {}), ("crossq", {}), ("flowrl", FLOWRL), ("sac-flow", {}))
    },
    **{f"{name} pendulum": (name, "classic/pendulum", ON_POLICY, {"episode_length": 37}) for name in ("ppo", "nfpo")},
    **{f"{name} hosted": (name, HOSTED, ON_POLICY, {}) for name in ("ppo", "nfpo")},
}
"""Name to (algorithm, world, settings, options of the world)."""

IGNORED = {"wall_seconds", "cpu_seconds"}


class Spring(gymnasium.Env):
    """A mass on a spring that an action pulls; ends when it is too far out."""

    max_episode_steps = 25

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Begins at rest, somewhere."""
        super().reset(seed=seed)
        self.x, self.v, self.age = self.np_random.uniform(-1.0, 1.0), 0.0, 0
        return np.array([self.x, self.v]), {}

    def step(self, action):
        """Euler, 0.1 s."""
        self.v += 0.1 * (float(action[0]) - self.x)
        self.x += 0.1 * self.v
        self.age += 1
        reward = -(self.x**2) - 0.01 * float(action[0]) ** 2
        return np.array([self.x, self.v]), reward, abs(self.x) > 1.5, self.age >= self.max_episode_steps, {}


def rows_of(case: str) -> list[dict]:
    """Runs a case and returns its lines of metrics."""
    from penstock.training.loop import Silent, train
    from penstock.training.plan import make_plan

    algorithm, world, settings, options = CASES[case]
    iteration = 4 * settings.get("window", settings.get("collect_steps"))
    fields = {"num_envs": 4, "steps": 20 * iteration, "log_every": 5, "evaluate_every": 10 * iteration}
    plan = make_plan(
        algorithm, world, settings=settings, world_options=options, seed=3, seeds=3, evaluation_episodes=2, **fields
    )
    with tempfile.TemporaryDirectory() as folder:
        train(plan, folder, observer=Silent())
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in IGNORED} for line in lines]


def record(cases: list[str]) -> None:
    """Adds the cases to the file."""
    known = json.loads(OUTPUT.read_text()) if OUTPUT.is_file() else {}
    for case in cases:
        known[case] = rows_of(case)
        print(case, len(known[case]), "lines", flush=True)
        OUTPUT.write_text(
            json.dumps(known, separators=(",", ":")).replace('[{"', '[\n{"').replace("},{", "},\n{") + "\n"
        )
        jax.clear_caches()


def compare(cases: list[str]) -> None:
    """Prints what differs, and exits with 1 if anything does."""
    known, differing = json.loads(OUTPUT.read_text()), 0
    for case in cases:
        told = differences(known[case], rows_of(case)) if case in known else ["never recorded"]
        print(f"{case}: {'; '.join(told) if told else 'equal in every bit'}", flush=True)
        differing += bool(told)
        jax.clear_caches()
    sys.exit(1 if differing else 0)


def differences(before: list[dict], now: list[dict]) -> list[str]:
    """Sentences: what is new, gone, or another number, and where first."""
    told = [] if len(before) == len(now) else [f"{len(before)} lines became {len(now)}"]
    names = dict.fromkeys(name for row in before + now for name in row)
    for name in names:
        pairs = [(old.get(name), new.get(name), new) for old, new in zip(before, now, strict=False)]
        first = next(((old, new, row) for old, new, row in pairs if old != new), None)
        if first is None:
            continue
        old, new, row = first
        where = f"at {row['env_steps']} steps, seed {row['seed']}"
        told.append(f"{name} {where}: {old} became {new}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("cases", nargs="*", default=[], help=", ".join(CASES))
    arguments = parser.parse_args()
    {"record": record, "compare": compare}[arguments.action](arguments.cases or list(CASES))


if __name__ == "__main__":
    main()
