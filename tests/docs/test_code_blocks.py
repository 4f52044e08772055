"""Every Python block of these pages runs. (add_a_world.md, run_folder.md, rsl_rl.md: see the tests of their rooms.)"""

import contextlib
import re
import sqlite3
from pathlib import Path

import jax
import meshio
import numpy as np
import pytest
import yaml

from penstock._errors import ConfigurationError
from penstock.algorithms import shac2
from penstock.export.files import write
from penstock.physics import voxel_mesh
from penstock.policies import settings
from penstock.storage.loggers import Logger
from penstock.storage.metrics_log import MetricsLog
from penstock.sweeps.points import read_sweep
from penstock.training.config_files import read_given
from penstock.training.drivers.functional import begin, iterate
from penstock.training.loop import train
from penstock.training.plan import make_plan
from penstock.worlds import make_world
from penstock.worlds.check import check_world
from penstock.worlds.loading import load_world
from penstock.worlds.randomization.reading import OTHERS, read_randomization
from penstock.worlds.randomization.terms import QUANTITIES
from tests.export.exported_agents import ACTIONS, SIZE, decision

ROOT = Path(__file__).parent.parent.parent


def run_blocks(page, names=None):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {} if names is None else names)


def test_policy_page(capsys, monkeypatch):
    """The page's policy acts, and SHAC2 trains with it, with its own setting."""
    monkeypatch.setattr(settings, "POLICIES", dict(settings.POLICIES))
    run_blocks("docs/add_a_policy.md", {})
    assert capsys.readouterr().out.strip()
    config = shac2.Config.of(policy="uniform-noise", widths=(4,), window=2, critic_passes=1, critic_minibatches=1)
    learner = shac2.Learner(config, make_world("classic/double-integrator", 2), 3)
    shapes = jax.eval_shape(lambda key: iterate(learner, begin(learner, key))[0], jax.random.key(0))
    assert shapes.learned.actor.policy.network.layers[0].linear.weight.shape == (4, 2)
    with pytest.raises(ConfigurationError, match=r"widths: does nothing with .* it belongs to uniform-noise"):
        shac2.Config.of(widths=(4,))


def test_robot_page(capsys, tmp_path, monkeypatch):
    """The loop runs beside an exported file, at the rate that the file tells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    metadata = {
        "control": {"timestep": 0.02},
        "observation": {"names": [f"joint{i}" for i in range(SIZE)]},
        "action": {"names": ["a", "b", "c"], "low": [-1.0] * ACTIONS, "high": [1.0] * ACTIONS},
        "controls": {"offset": [0.1, 0.2, 0.3], "scale": [2.0] * ACTIONS},
    }
    made = decision(settings.POLICIES["flow"])
    write(made, metadata, tmp_path / "policy.npz", "numpy")
    names = {}
    run_blocks("docs/robot.md", names)
    assert re.fullmatch(r"\d+ of 100 steps were late\n", capsys.readouterr().out)
    expected = made(observation=np.zeros(SIZE, np.float32))["action"]
    targets = np.array([0.1, 0.2, 0.3]) + 2.0 * np.asarray(expected)
    assert list(names["robot"].targets.values()) == pytest.approx(targets.tolist(), abs=1e-5)


def test_soft_worlds_page(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mesh = voxel_mesh([(0, 0, 0), (1, 0, 0)], 200.0)  # millimetres
    meshio.Mesh(mesh.vertices, [("tetra", mesh.tets)]).write("body.msh", file_format="gmsh22", binary=False)
    names = {}
    run_blocks("docs/soft_worlds.md", names)
    assert capsys.readouterr().out.strip()
    assert names["world"].num_envs == 4 and names["world"].action_size == len(mesh.tets) // 2


def test_own_environments_page(tmp_path):
    """The file of the page passes `check-world` without a warning, takes its option, and states its limit."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own_environments.md").read_text(), re.DOTALL)
    (tmp_path / "point.py").write_text(block)
    spec = f"{tmp_path}/point.py:make_point"
    assert {finding.severity for finding in check_world(load_world(spec, 2))} == {"ok"}
    assert load_world(spec, 2, max_steps=50).episode_length == 50


def test_jax_worlds_page(tmp_path):
    """The file of the page passes `check-world` without a warning."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/jax_worlds.md").read_text(), re.DOTALL)
    (tmp_path / "cart.py").write_text(block)
    world = load_world(f"{tmp_path}/cart.py:Cart", 2)
    assert {finding.severity for finding in check_world(world)} == {"ok"}
    assert (world.episode_length, world.control_timestep) == (200, 0.05)


def test_logging_page(tmp_path, capsys):
    """The page's logger is one, keeps a row that comes again once, and goes on in the same table."""
    names: dict = {}
    run_blocks("docs/logging.md", names)
    config = make_plan("sac", "classic/pendulum").to_config()
    for steps in ((10, 20), (20, 30)):
        logger = names["SQLite"]()
        assert isinstance(logger, Logger)
        log = MetricsLog(tmp_path / "metrics.jsonl", [logger], pytest.fail)
        log.begin(config)
        for step in steps:
            log.write({"env_steps": step, "seed": 0, "eval/return_mean": 1.5})
        log.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.sqlite")) as database:
        rows = database.execute("SELECT env_steps FROM metrics ORDER BY env_steps").fetchall()
        assert rows == [(10,), (20,), (30,)]
    assert capsys.readouterr().out == "logging sac on classic/pendulum\n" * 2


def test_experiments_page(tmp_path):
    """The page's files are read: a run, a grid of four, a list of two."""
    one, grid, several = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/experiments.md").read_text(), re.DOTALL)
    file = tmp_path / "file.yaml"
    file.write_text(one)
    plan = read_given(file).plan(None, {}, {})
    assert (plan.steps, plan.world_options, plan.settings.actor_hidden) == (20_000, {"mass": 2.0}, (64, 64))
    names = []
    for text in (grid, several):
        file.write_text(text)
        points = read_sweep(file).points()
        names.append([point.name for point in points])
        assert all(point.given.plan(None, {}, {}).num_envs == 4 for point in points)
    assert names[0][0] == "actor_learning_rate=1e-4,policy=gaussian" and len(names[0]) == 4
    assert names[1] == ["policy=gaussian", "short-flow"]


@pytest.mark.slow
def test_readme(capsys, tmp_path, monkeypatch):
    """Reads the run that `make train` writes, here a tiny one."""
    monkeypatch.chdir(tmp_path)
    settings = {"window": 1, "critic_passes": 1, "actor_hidden": (4,), "critic_hidden": (4,)}
    plan = make_plan(
        "rfo",
        "soft/jumper-mini",
        settings=settings,
        steps=2,
        num_envs=2,
        evaluation_episodes=1,
        world_options={"episode_length": 2},
    )
    train(plan, "runs/quickstart")
    small = ", ".join(
        f"{name}={value}" for name, value in {**settings, "num_envs": 2, "evaluation_episodes": 1}.items()
    )
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "steps=60_000, seeds=3" in block
    exec(compile(block.replace("steps=60_000, seeds=3", f"steps=2, {small}"), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_domain_randomization_page():
    """Every configuration on the page is read, and its table has every term."""
    text = (ROOT / "docs/domain_randomization.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    read = [read_randomization(block.get("world_options", {"randomize": block})["randomize"]) for block in blocks]
    assert [len(one.model) for one in read] == [7, 3, 0, 1] and read[3].evaluation == "nominal"
    rows = re.findall(r"^\| (`.*?) \|", text[text.index("## Terms") : text.index("## What is drawn")], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {*QUANTITIES, *OTHERS}
