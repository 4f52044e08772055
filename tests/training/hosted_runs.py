"""Tiny runs on hosted worlds, which share what they compile."""

from pathlib import Path
from typing import ClassVar

import jax
import numpy as np

from penstock.storage.metrics_log import read_metrics
from penstock.storage.store import latest_checkpoint
from penstock.training.drivers.functional import seed_keys
from penstock.training.drivers.hosted import HostedDriver
from penstock.training.plan import make_plan
from penstock.training.restore import load_state
from penstock.training.running import make_driver

ENVIRONMENTS = Path(__file__).parent.parent / "worlds" / "hosted_environments.py"


TINY = {
    "collect_steps": 5,
    "warmup_steps": 20,
    "batch_size": 8,
    "actor_hidden": (8,),
    "critic_hidden": (8,),
    "updates_per_step": 2,
}


def tiny_plan(algorithm="sac", environment="Counting", settings=None, **fields):
    fields = {"num_envs": 2, "steps": 100, "log_every": 2, "evaluate_every": 20, "evaluation_episodes": 2, **fields}
    return make_plan(algorithm, f"{ENVIRONMENTS}:{environment}", settings={**TINY, **(settings or {})}, **fields)


def program_of(plan):
    world = plan.make_world()
    return make_driver(plan.make_learner(world), world.with_num_envs(plan.evaluation_episodes))


def newest_state(folder, driver):
    return load_state(latest_checkpoint(folder / "checkpoints"), driver, seed_keys(0, 1))[0]


def arrays(tree):
    def plain(leaf):
        return np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return {jax.tree_util.keystr(path): plain(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def assert_equal(one, other):
    one, other = arrays(one), arrays(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def rows(folder):
    return [
        {k: v for k, v in row.items() if k not in ("wall_seconds", "cpu_seconds")}
        for row in read_metrics(Path(folder) / "metrics.jsonl")
    ]


class SharedFunctions(HostedDriver):
    """A `HostedDriver` whose functions are compiled once for all runs of the same learner in this process.

    They know nothing of the environments but the sizes of observations and actions.
    """

    compiled: ClassVar[dict] = {}

    def __init__(self, learner, evaluation_world, rates=None):
        super().__init__(learner, evaluation_world, rates=rates)
        self.share(self)

    @classmethod
    def share(cls, driver):
        """Gives the driver the functions of the first of its kind."""
        learner = driver.learner
        of = (learner.name, learner.config, learner.precision, learner.deterministic)
        first = cls.compiled.setdefault((*of, learner.world.observation_spec, learner.world.action_size), driver)
        for name in ("_learn_all", "_split", "_act", "_learn", "_metrics"):
            setattr(driver, name, getattr(first, name))
        driver.evaluator._act = first.evaluator._act
