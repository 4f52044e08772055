"""Benchmarks still fit the library that they measure: the sides that need no other package run, at tiny sizes."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = "batch_size=8, actor_hidden=(8,)"

SMALL_RUNS = {
    "gradient steps beside the peers'": f"""
import update_speed as benchmark
from penstock.algorithms import crossq, sac, sac_flow
from released_flowrl import FlowRL
from released_sac_flow import reference_code
critics = dict(critic_hidden=(8, 8, 8))
for algorithm, config in (
    (sac.Learner, sac.Config.of({TINY}, **critics)),
    (crossq.Learner, crossq.Config.of({TINY}, **critics)),
    (FlowRL, FlowRL.settings.of({TINY}, **critics)),
    (sac_flow.Learner, reference_code("gated", {TINY}, **critics)),
    (sac_flow.Learner, sac_flow.Config.of(velocity="decoded", {TINY}, **critics)),
):
    side = benchmark.learner(algorithm, 5, 2, config)
    side.run(benchmark.BLOCK)
    assert int(side.count) == benchmark.BLOCK and side.gflop > 0
""",
    "training on hosted worlds": """
import hosted_training as benchmark
from penstock.algorithms import sac
found = benchmark.measure("sac", "gym/Pendulum-v1", "light", 200)
assert abs(sum(found["shares"].values()) - 1.0) < 0.2, found["shares"]
assert min(found["steps_per_second"]) > 0
""",
    "gradients along the flow, on worlds of both kinds": f"""
import argparse, math
import gradient_health as benchmark
tiny = dict({TINY}, critic_hidden=(8,), warmup_steps=16, collect_steps=8)
benchmark.SETTINGS = {{"classic": tiny, "gym": tiny}}
for world in ("classic/pendulum", "gym/Pendulum-v1"):
    seeds = benchmark.train_arm("mlp", 3, argparse.Namespace(world=world, steps=160, num_envs=2, seeds=1))
    rows = seeds[0]["rows"]
    assert [len(row["gradient"]) for row in rows] == [4] * 5 and rows[-1]["env_steps"] == 160
    assert all(0 < norm < math.inf for row in rows for norm in row["gradient"])
""",
    "flow and Gaussian policies where modes matter": """
import jax, numpy as np
import two_modes as benchmark
from penstock.algorithms import rfo, sapo
from penstock.training.drivers.functional import begin, iterate
from penstock.training.evaluation import run_episodes
from penstock.worlds import make_world
world = "classic/deceptive-basins"
benchmark.WORLDS = {world: {"window": 8, "updates": 3}}
benchmark.EPISODES, benchmark.NUM_ENVS = 8, 4
benchmark.SHARED = small = dict(actor_hidden=(8,), critic_hidden=(8,), critic_passes=1, critic_minibatches=1)
found = benchmark.train_arm(world, "SAPO", 2)
assert len(found["tuning"]) == 8 and len(found["seeds"]) == 2
for module, numbers in (
    (rfo, dict(actor_learning_rate=5e-3, past_coefficient=0.05, uniform_coefficient=0.02)),
    (sapo, dict(actor_learning_rate=5e-3, initial_log_std=-2.0, initial_temperature=0.3)),
):
    other = {name: 0.5 * number for name, number in numbers.items()}  # what is compiled must not matter
    result, _ = benchmark.compile_arm(module.Learner.name, {}, world, other)(numbers, jax.random.key(4))
    learner = module.Learner(module.Config.of(window=8, **small, **numbers), make_world(world, 4), 3)
    state = jax.lax.fori_loop(0, 3, lambda _, s: iterate(learner, s)[0], begin(learner, jax.random.key(4)))
    key = jax.random.fold_in(jax.random.key(4), 1)
    plain, _ = run_episodes(learner.agent(state.learned), make_world(world, 8), key, deterministic=False)
    np.testing.assert_allclose(plain.episode_return.mean(), result["return_stochastic"], rtol=1e-4)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_RUNS)
def test_a_small_run(name):
    finished = subprocess.run(
        [sys.executable, "-c", SMALL_RUNS[name]], cwd=BENCHMARKS, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
