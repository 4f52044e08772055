"""What a script uses: train, resume, load, make_world. `import penstock` offers the same names, and loads this late."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from penstock._errors import ConfigurationError, require
from penstock._jax_setup import set_up_jax
from penstock._types import Actions
from penstock.export.decision import Mode
from penstock.export.exporting import export_run
from penstock.export.files import Target
from penstock.networks.precision import Precision
from penstock.observation import Observation
from penstock.policies import Agent
from penstock.policies.deterministic_action import DeterministicName
from penstock.storage.loggers import Logger, make_loggers
from penstock.storage.metrics_log import read_metrics
from penstock.storage.run_folder import METRICS_NAME
from penstock.training.best import BestIs
from penstock.training.config_files import Given, read_given
from penstock.training.loop import Result
from penstock.training.loop import train as train_plan
from penstock.training.observer import Observer, Silent
from penstock.training.plan import RunPlan, default_run_dir
from penstock.training.restore import RestoredRun, read_plan, restore_run
from penstock.training.running import evaluate_seeds
from penstock.worlds import World
from penstock.worlds.history import begun, shifted
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.loading import load_world
from penstock.worlds.randomization.terms import Evaluated

Rows = list[dict[str, Any]]
"""Lines of ``metrics.jsonl``, one per seed."""


def train(
    algorithm: str | None = None,
    world: str | None = None,
    *,
    config: str | Path | None = None,
    run_dir: str | Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    num_envs: int | None = None,
    history: int | None = None,
    preset: str | None = None,
    world_options: Mapping[str, Any] | None = None,
    log_every: int | None = None,
    evaluate_every: int | None = None,
    evaluation_episodes: int | None = None,
    log_info: Sequence[str] | None = None,
    best_by: str | None = None,
    best_is: BestIs | None = None,
    deterministic_action: DeterministicName | None = None,
    deterministic_draws: int | None = None,
    precision: Precision | None = None,
    label: str | None = None,
    progress: bool = True,
    on_metrics: Callable[[Rows], bool | None] | None = None,
    loggers: Sequence[Logger] = (),
    allow_config_change: bool = False,
    **settings: Any,
) -> "Run":
    """Trains, or continues the run in the folder: ``penstock train`` without its figure and film.

    What is None is as ``config`` says, else as the world's preset, else as `RunPlan` and the algorithm have it.

    Args:
        algorithm: name of the algorithm.
        world: name of the world, or your own: ``path/to/file.py:Task`` or ``package.module:Task``.
        config: a file with any of these, YAML or JSON, or the ``config.json`` of a run; see docs/experiments.md.
        run_dir: the run folder; by default ``runs/ALGORITHM-WORLD-SEED``.
        steps: environment steps per seed.
        seed: first seed; 0 by default.
        seeds: how many seeds, trained in one program; 1 by default.
        num_envs: environments that step together.
        history: observation vectors of the last so many control steps are seen as one; 1 by default.
        preset: settings by name in place of the world's.
        world_options: keyword arguments of the world; each counts more than the file's of its name.
        log_every: iterations per line of metrics.
        evaluate_every: environment steps between evaluations.
        evaluation_episodes: episodes per evaluation.
        log_info: entries of a hosted environment's ``info`` that are logged beside success.
        best_by: metric of evaluations by which the best checkpoint is kept, for example ``eval/success_rate``.
        best_is: whether its highest or its lowest value is the best.
        deterministic_action: of a flow, the action without noise: zero, typical, mean, modal or likeliest.
        deterministic_draws: fixed noises of mean, modal and likeliest.
        precision: float32 or bfloat16; see `RunPlan`.
        label: name of the arm in comparisons.
        progress: show the progress display on standard error.
        on_metrics: called with every new line of metrics, one dictionary per seed; True stops the run, which is saved
            and goes on with the next call.
        loggers: where metrics go beside the run folder; see docs/logging.md.
        allow_config_change: continue although settings differ from those of the run so far.
        **settings: of the algorithm, by the names of the command line: ``window=16``.

    Raises:
        PenstockError: in a sentence: what is wrong, and what to do.
    """
    set_up_jax()
    given = Given() if config is None else read_given(config, world or "")
    fields = {"steps": steps, "seed": seed, "seeds": seeds, "num_envs": num_envs, "label": label}
    fields |= {"history": history}
    fields |= {"log_every": log_every, "evaluate_every": evaluate_every, "evaluation_episodes": evaluation_episodes}
    fields |= {"log_info": log_info if log_info is None else tuple(log_info), "best_by": best_by, "best_is": best_is}
    fields |= {"deterministic_action": deterministic_action, "deterministic_draws": deterministic_draws}
    fields |= {"precision": precision, "algorithm": algorithm, "world": world, "world_options": world_options}
    plan = given.plan(preset, {name: value for name, value in fields.items() if value is not None}, settings)
    beside = given.beside
    run_dir = run_dir or beside.run_dir or default_run_dir(plan)
    named = make_loggers(beside.tensorboard, beside.wandb, beside.logger)
    return _train(plan, run_dir, progress, on_metrics, [*named, *loggers], allow_config_change)


def resume(
    run_dir: str | Path,
    *,
    progress: bool = True,
    on_metrics: Callable[[Rows], bool | None] | None = None,
    loggers: Sequence[Logger] = (),
) -> "Run":
    """Continues the run in a folder with its own settings. See `train`."""
    set_up_jax()
    return _train(read_plan(run_dir), run_dir, progress, on_metrics, loggers, False)


def _train(plan, run_dir, progress, on_metrics, loggers, allow_config_change):
    observer: Observer = Silent()
    if progress:
        from penstock.reports.live import Progress

        observer = Progress()
    result = train_plan(
        plan,
        run_dir,
        observer=observer,
        loggers=loggers,
        on_metrics=on_metrics,
        allow_config_change=allow_config_change,
    )
    return Run(result.folder.path, plan, result)


def load(run_dir: str | Path, *, world: str = "", use_copies: bool = False) -> "Run":
    """Opens a run for reading; nothing in its folder changes, so it may train meanwhile.

    Args:
        run_dir: the run folder.
        world: a world in place of the run's own, or the same at another place.
        use_copies: execute the copies that the run keeps of your own files, where those are gone or edited.

    Raises:
        PenstockError: the folder holds no run.
    """
    set_up_jax()
    return Run(Path(run_dir), read_plan(run_dir, world, use_copies), opened=(world, use_copies))


def make_world(name: str, num_envs: int = 1, **options: Any) -> World:
    """Builds a world by name, or from a user's file or module.

    Raises:
        PenstockError: no such world, or an option that it does not take.
    """
    return load_world(name, num_envs, **options)


class Run:
    """A run folder, opened.

    Attributes:
        path: the folder.
        plan: what is run.
        result: how training ended, where this run was just trained; else None.
    """

    def __init__(self, path: Path, plan: RunPlan, result: Result | None = None, opened: tuple[str, bool] = ("", False)):
        self.path, self.plan, self.result, self._opened = path, plan, result, opened
        self._restored: dict[str, RestoredRun] = {}

    def __repr__(self) -> str:
        return f"<run of {self.plan.title} on {self.plan.world} in {self.path}>"

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds that are trained in one program."""
        return range(self.plan.seed, self.plan.seed + self.plan.seeds)

    @property
    def finished(self) -> bool:
        """Whether the last line of metrics is at the end of the plan."""
        rows = self.metrics()
        return bool(rows) and rows[-1]["update"] >= self.plan.updates

    def metrics(self) -> Rows:
        """Every line of ``metrics.jsonl`` so far."""
        return read_metrics(self.path / METRICS_NAME)

    def agent(self, seed: int | None = None, checkpoint: Literal["last", "best"] = "last") -> "TrainedAgent":
        """What one seed has learned, ready to act.

        Args:
            seed: which one; the first by default.
            checkpoint: the newest, or the best one by the run's ``best_by``.
        """
        seed = self.plan.seed if seed is None else seed
        require(seed in self.seeds, "seed", seed, f"this run has the seeds {list(self.seeds)}")
        restored = self._open(checkpoint)
        return TrainedAgent(restored.agents[seed - self.plan.seed], restored.learner.world)

    def evaluate(
        self,
        episodes: int = 64,
        *,
        seed: int = 12345,
        checkpoint: Literal["last", "best"] = "last",
        evaluation: Evaluated | None = None,
    ) -> list[dict[str, float]]:
        """Runs whole episodes, stochastic and deterministic; metrics ``eval/...``, one dictionary per trained seed.

        Args:
            episodes: of each kind.
            seed: of resets and policy noise.
            checkpoint: see `agent`.
            evaluation: ``randomized`` or ``nominal``, where the run randomises its world; None as the run does.
        """
        require(episodes >= 1, "episodes", episodes, "must be at least 1")
        restored = self._open(checkpoint)
        key = jax.random.key(seed)
        return evaluate_seeds(restored.learner, restored.agents, episodes, key, where=evaluation)

    def export(
        self,
        to: Target = "numpy",
        output: str | Path | None = None,
        *,
        mode: Mode = "deterministic",
        seed: int | None = None,
        checkpoint: Literal["last", "best"] = "last",
    ) -> Path:
        """Writes a policy to a file that runs without Penstock: ``penstock export`` without its check.

        Args:
            to: numpy (an ``.npz``, and a module that reads it), onnx or stablehlo.
            output: the file; by default ``exports/CHECKPOINT`` in the run folder.
            mode: ``deterministic``: by the run's rule. ``noise-fed``: by noise, a further input.
            seed: which one; the first by default.
            checkpoint: see `agent`.

        Returns:
            The file.
        """
        world, use_copies = self._opened
        exported = export_run(
            self.path,
            to,
            output,
            mode=mode,
            checkpoint=checkpoint,
            seed=seed,
            world=world,
            use_copies=use_copies,
        )
        return exported.paths[0]

    def _open(self, checkpoint) -> RestoredRun:
        if checkpoint not in self._restored:
            self._restored[checkpoint] = restore_run(self.path, checkpoint, *self._opened)
        return self._restored[checkpoint]


class TrainedAgent:
    """Acts on the observations of a world, one or a batch, with actions in the environment's own box.

    An agent may remember what it planned, or what it saw in the control steps before: call `reset` when an episode
    begins, of all environments or of some.

    Attributes:
        agent: the same as a pure function of arrays, for use inside `jax.jit`: `penstock.policies.Agent`, with actions
            in [-1, 1].
        world: what it was trained on.
    """

    def __init__(self, agent: Agent, world: World, seed: int = 0):
        self.agent, self.world = agent, world
        self._key = jax.random.key(seed)
        self._act = jax.jit(lambda memory, step, observation, key: agent.act(memory, step, observation, key))
        self.reset()

    def reset(self, where: Any = None) -> None:
        """Begins new episodes: forgets what is planned and what was seen.

        Args:
            where: ``(N,)`` flags of the environments whose episode begins; None for all.

        Raises:
            ConfigurationError: there are more or fewer flags than environments.
        """
        if where is None:
            self._memory, self._vectors, self._step = None, None, 0
        elif self._memory is not None:
            flags = np.atleast_1d(np.asarray(where, bool))
            rule = f"is not one flag for each of the {len(self._began)} environments that act() was asked for; pass so"
            require(flags.shape == self._began.shape, "where", where, f"{rule} many, or none to begin all anew")
            self._began = self._began | flags  # others may have begun since the last action
            self._memory = self._memory.after(jnp.asarray(self._began))

    def act(self, observation: Any, *, deterministic: bool = True) -> Any:
        """The action for an observation, or N actions for a batch of N.

        Args:
            observation: as the environment gives it (an array; a dictionary where its space is one), or a
                `penstock.observation.Observation`; NumPy or JAX, without a leading axis or with one. Of this step
                alone, where the agent sees a history; or that history, as the run's own world gives it.
            deterministic: act without noise, by the run's rule; else sample.

        Returns:
            An array of the environment's action shape; with a leading axis where the observation has one. JAX where
            the observation is, NumPy otherwise.

        Raises:
            ConfigurationError: the observation does not have the world's shape, or is not finite.
        """
        batch, single, in_jax = self._batch(observation)
        count = batch.vector.shape[0]
        if self._memory is None or self._memory.plan.cursor.shape[0] != count:
            self._memory, self._vectors, self._step = self.agent.initial_memory(count), None, 0
            self._began = np.zeros(count, bool)
        batch = self._with_history(batch)
        key = None
        if not deterministic:
            self._key, key = jax.random.split(self._key)
        step = jnp.asarray(self._step % self.agent.chunk_length, jnp.int32)
        self._memory, action, _ = self._act(self._memory, step, batch, key)
        self._step, self._began = self._step + 1, np.zeros(count, bool)
        action = self._in_the_box(action, in_jax)
        return action[0] if single else action

    def _with_history(self, batch: Observation) -> Observation:
        """The observation with those before it, where the agent sees a history and was not given one."""
        spec, vector = self.world.observation_spec, jnp.asarray(batch.vector)
        if vector.shape[1] == spec.vector:
            return batch
        fresh = begun(vector, spec.history)
        on = fresh if self._vectors is None else shifted(self._vectors, vector)
        self._vectors = jnp.where(jnp.asarray(self._began)[:, None], fresh, on)
        return dataclasses.replace(batch, vector=self._vectors)

    def _in_the_box(self, action: Actions, in_jax: bool) -> Any:
        if isinstance(self.world, HostedWorld):
            scaled = self.world.declared.actions.from_unit(np.asarray(action))
            return jnp.asarray(scaled) if in_jax else scaled
        return action if in_jax else np.asarray(action)

    def _batch(self, observation: Any) -> tuple[Observation, bool, bool]:
        """The observation with a leading axis; whether it had none; and whether it was made of JAX arrays."""
        in_jax = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(observation))
        spec = self.world.observation_spec
        if isinstance(observation, Observation):
            single = jnp.ndim(observation.vector) == 1
            lifted = jax.tree.map(lambda leaf: leaf[None], observation) if single else observation
        elif isinstance(self.world, HostedWorld):
            lifted, single = self.world.declared.reader.read_any(observation)
        elif spec.points or spec.pixels:
            raise ConfigurationError(
                f"observation: '{self.world.name}' observes more than a vector. Pass an Observation "
                "(penstock.observation)."
            )
        else:
            vector = jnp.asarray(observation, jnp.float32)
            single = vector.ndim == 1
            lifted = Observation(vector[None] if single else vector)
        found = jnp.shape(lifted.vector)
        if len(found) != 2 or found[1] not in (spec.present, spec.vector):
            raise ConfigurationError(
                f"observation: vectors of '{self.world.name}' have {spec.present} entries, and this one has the shape "
                f"{np.shape(observation) if not isinstance(observation, Observation) else found}. Pass one of shape "
                f"({spec.present},), or a batch (N, {spec.present})."
            )
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(lifted)):
            raise ConfigurationError(
                "observation: it holds NaN or infinity, from which no action follows. Look at the sensor or the "
                "simulator."
            )
        return lifted, single, in_jax
