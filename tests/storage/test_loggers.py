"""Where metrics go beside the run folder: TensorBoard, Weights & Biases (the real package, offline), users' own."""

import importlib.util
import json
import sys
import time
import types

import jax.numpy as jnp
import pytest

from penstock._errors import ConfigurationError, PenstockError
from penstock._extras import extra
from penstock.storage.loggers import Logger, LoggerError, TensorBoard, WeightsAndBiases, make_loggers
from penstock.storage.metrics_log import MetricsLog, read_metrics

CONFIG = {"algorithm": "sac", "seed": 3, "seeds": 2, "settings": {"actor_hidden": [8], "discount": 0.5}}

needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")


def row(step, seed=3, **more):
    return {"env_steps": step, "seed": seed, "eval/return_deterministic": step / 10, **more}


@pytest.mark.parametrize(
    ("module", "arguments", "brings"),
    [("tensorboardX", (True, "", ()), "tensorboard"), ("wandb", (False, "project", ()), "wandb")],
)
def test_a_missing_package_says_which_extra_brings_it(monkeypatch, module, arguments, brings):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PenstockError, match=rf"'{module}', which is not installed.*'penstock\[{brings}\]'"):
        make_loggers(*arguments)


def test_a_folder_of_results_is_no_package(tmp_path, monkeypatch):
    """W&B writes one of its own name."""
    (tmp_path / "results_of_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        PenstockError, match=r"which is not installed \(only a folder of that name was found, .*'penstock"
    ):
        extra("results_of_runs", "wandb")


def test_tensorboard_gets_numbers_and_hides_rows_that_are_written_again(tmp_path, monkeypatch):
    calls: list[tuple] = []

    class SummaryWriter:
        def __init__(self, directory, purge_step):
            calls.append(("open", directory, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def close(self):
            calls.append(("close",))

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    log = MetricsLog(tmp_path / "m", [TensorBoard()])
    log.begin(CONFIG)
    for seed in (3, 4, 3):
        numbers = {"env_steps": 30, "seed": seed, "loss": jnp.float32(0.5), "flag": True}
        log.write({**numbers, "text": "no", "none": None, "list": [1]})
    log.close()
    scalars = [("loss", 0.5, 30), ("flag", 1.0, 30)]
    three, four = (("open", str(tmp_path / "tensorboard" / f"seed-{seed}"), 30) for seed in (3, 4))
    assert calls == [three, *scalars, four, *scalars, *scalars, ("close",), ("close",)]


@pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="tensorboardX is not installed")
def test_tensorboard_files_appear(tmp_path):
    logger = TensorBoard()
    logger.begin(tmp_path, CONFIG)
    logger.write({"env_steps": 1, "loss": 0.5})
    logger.close()
    assert any(entry.stat().st_size > 0 for entry in (tmp_path / "tensorboard").iterdir())


@pytest.fixture
def wandb_with(monkeypatch):
    """Sets variables of the package, which reads them once in a process, unless it is told to end."""
    import wandb

    def chosen(**variables):
        for name in ("API_KEY", "BASE_URL"):
            monkeypatch.delenv(f"WANDB_{name}", raising=False)
        for name, value in {"SILENT": "true", "X_DISABLE_STATS": "true", **variables}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        wandb.teardown()

    yield chosen
    wandb.teardown()


def sent(run_dir, sessions):
    """What the package has written for each id, session after session; its service may take a moment."""
    for _ in range(100):
        files = sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
        if len(files) == sessions and all(b"eval/return" in file.read_bytes() for file in files):
            break
        time.sleep(0.1)
    by_id: dict[str, list[bytes]] = {}
    for file in files:
        by_id.setdefault(file.stem.removeprefix("run-"), []).append(file.read_bytes())
    return by_id


@needs_wandb
def test_wandb_has_a_run_for_each_seed_and_goes_on_with_it(tmp_path, wandb_with):
    wandb_with(MODE="offline")

    def session(*steps):
        log = MetricsLog(tmp_path / "metrics.jsonl", [WeightsAndBiases("flows")], pytest.fail)
        log.begin(CONFIG)
        for step in steps:
            for seed in (3, 4):
                log.write(row(step, seed, text="no", list=[1]))
        log.close()

    session(10, 20)
    session(30)
    ids = json.loads((tmp_path / "wandb.json").read_text())["flows"]
    assert set(ids) == {"3", "4"} and len(set(ids.values())) == 2
    found = sent(tmp_path, 4)
    assert set(found) == set(ids.values()), "each seed has one run of W&B, whatever the number of sessions"
    for seed, run in ids.items():
        first, second = found[run]
        assert first.count(b"eval/return_deterministic") >= 2 and b"eval/return_deterministic" in second
        assert f"{tmp_path.name}-seed-{seed}".encode() in first and b'"discount":0.5' in first


@needs_wandb
def test_wandb_does_not_send_what_the_service_has(tmp_path, monkeypatch):
    class Run:
        starting_step = 15

        def __init__(self):
            self.steps = []

        def log(self, numbers, step):
            self.steps.append((step, numbers["env_steps"], numbers["eval/return_deterministic"]))

    logger, run = WeightsAndBiases("flows"), Run()
    monkeypatch.setattr(logger._package, "init", lambda **keywords: run)
    logger.begin(tmp_path, {**CONFIG, "seeds": 1})
    for step in (10, 20):
        logger.write(row(step))
    assert run.steps == [(20, 20, 2.0)]


@needs_wandb
def test_wandb_without_a_network_costs_nothing_but_its_rows(tmp_path, wandb_with):
    wandb_with(MODE="online", API_KEY="a" * 40, BASE_URL="http://127.0.0.1:9", INIT_TIMEOUT="1")
    reports: list[str] = []
    log = MetricsLog(tmp_path / "metrics.jsonl", [WeightsAndBiases("flows")], reports.append)
    log.begin({**CONFIG, "seeds": 1})
    log.write(row(10))
    log.close()
    assert len(reports) == 1 and "WeightsAndBiases failed and gets no more rows: CommError" in reports[0]
    assert [line["env_steps"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10]


@needs_wandb
@pytest.mark.parametrize(
    ("project", "words"), [("flows", "Use `wandb login` to log in"), ("a/b", "Invalid project name")]
)
def test_wandb_says_at_the_start_what_the_user_can_mend(tmp_path, monkeypatch, wandb_with, project, words):
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb_with(MODE="online")
    log = MetricsLog(tmp_path / "metrics.jsonl", [WeightsAndBiases(project)], pytest.fail)
    with pytest.raises(LoggerError, match=rf"wandb = '{project}': .*{words}"):
        log.begin(CONFIG)
    log.close()


OWN = """
from penstock._errors import PenstockError

class Lines:
    def begin(self, run_dir, config):
        self.file = (run_dir / "lines.txt").open("a")

    def write(self, row):
        self.file.write(f"{row['env_steps']}\\n")

    def close(self):
        self.file.close()

class Half:
    def write(self, row): ...

def broken():
    raise RuntimeError("no server")

THREE = 3
"""


def test_a_logger_in_a_file(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (logger,) = make_loggers(False, "", [f"{tmp_path}/own.py:Lines"])
    assert isinstance(logger, Logger)
    log = MetricsLog(tmp_path / "metrics.jsonl", [logger])
    log.begin(CONFIG)
    log.write(row(10))
    log.close()
    assert (tmp_path / "lines.txt").read_text() == "10\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Half", r"a Half has no begin, close\. A logger has begin\(run_dir, config\), write\(row\) and close\(\)"),
        ("broken", r"making it failed: RuntimeError: no server"),
        ("THREE", r"must be a class, or a function"),
        ("Liens", r"no attribute 'Liens'\. Did you mean 'Lines'"),
    ],
)
def test_what_is_no_logger_is_refused(tmp_path, name, words):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(ConfigurationError, match=words):
        make_loggers(False, "", [f"{tmp_path}/own.py:{name}"])
