"""N environments that step together: in this process, in processes of their own, or in EnvPool.

Whoever steps them, episodes end here in one way: the last observation of an episode is the *final* observation, and the
one to act on next comes from a reset. How a vector environment resets is read from its metadata, never guessed.

On two cores, stepping in this process is fastest for MuJoCo (docs/hosted_worlds.md has the measurement): a message to
another process costs more than a control step. Processes pay for environments whose step takes many milliseconds.
"""

import contextlib
import functools
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from penstock._errors import ConfigurationError, PenstockError, raised
from penstock.worlds.hosted.faults import EnvironmentRaisedError, WorldFaultError, called, guarded
from penstock.worlds.hosted.packages import quiet_mujoco

Vectorization = Literal["serial", "processes", "envpool"]


class Played(NamedTuple):
    """What one step of N environments brought, in the environments' own terms.

    Attributes:
        observation: to act on next.
        reward: ``(N,)``.
        terminated: ``(N,)``.
        truncated: ``(N,)``.
        final: before any reset.
        valid: ``(N,)`` False where the environment did nothing but reset itself; None where that never happens.
        info: what they told beside. See `InfoReader`.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final: Any
    valid: np.ndarray | None
    info: Any = None


@runtime_checkable
class VectorEnvironment(Protocol):
    """N environments that step together."""

    def reset(self, seeds: Sequence[int]) -> Any:
        """Starts all environments; returns their observations."""
        ...

    def step(self, actions: np.ndarray) -> Played:
        """One control step with ``actions (N, ...)`` in the environments' own box."""
        ...

    def renew(self, over: np.ndarray, ended: np.ndarray, seeds: Sequence[int]) -> Any:
        """Begins new episodes after a step.

        Args:
            over: ``(N,)`` where the episode is over.
            ended: ``(N,)`` where the environment itself ended it.
            seeds: the seed with which each environment begins its next episode, where one is over.

        Returns:
            Observations to act on next; None where the environments have seen to it themselves.
        """
        ...

    def scene_source(self) -> Any:
        """The first environment, for pictures; None where it is out of reach."""
        ...

    def close(self) -> None:
        """Ends all environments. May be called twice."""


class GymnasiumVector:
    """Any `gymnasium.vector.VectorEnv`, in any of the three modes of automatic reset.

    Args:
        envs: the vector environment.
        name: of the world, for messages.
        timeout: seconds to wait for environments in processes of their own.

    Raises:
        ConfigurationError: the mode of automatic reset is not stated.
    """

    def __init__(self, envs: Any, name: str, timeout: float = 60.0):
        from gymnasium.vector import AsyncVectorEnv, AutoresetMode

        stated = (getattr(envs, "metadata", None) or {}).get("autoreset_mode")
        if stated is None:
            raise ConfigurationError(
                f"'{name}': the vector environment does not state how it resets itself. Set metadata['autoreset_mode'] "
                "to a gymnasium.vector.AutoresetMode."
            )
        self.mode = stated if isinstance(stated, AutoresetMode) else AutoresetMode(stated)
        self.modes = AutoresetMode
        self.envs = envs
        self.name = name
        self.timeout = timeout if isinstance(envs, AsyncVectorEnv) else None
        self.resetting = np.zeros((envs.num_envs,), bool)
        self.closed = False

    def reset(self, seeds: Sequence[int]) -> Any:
        """See `VectorEnvironment`."""
        self.resetting[:] = False
        return self._reset(seeds, None)

    def step(self, actions: np.ndarray) -> Played:
        """See `VectorEnvironment`."""
        observation, reward, terminated, truncated, info = self._guard(lambda: self._step(actions))
        if self.mode == self.modes.SAME_STEP:
            final = self._final(observation, terminated | truncated, info)
            return Played(observation, reward, terminated, truncated, final, None, info)
        if self.mode == self.modes.DISABLED:
            return Played(observation, reward, terminated, truncated, observation, None, info)
        valid = ~self.resetting
        self.resetting = (terminated | truncated) & valid
        return Played(observation, reward, terminated & valid, truncated & valid, observation, valid, info)

    def renew(self, over: np.ndarray, ended: np.ndarray, seeds: Sequence[int]) -> Any:
        """See `VectorEnvironment`.

        Raises:
            WorldFaultError: an episode must be cut, and the environments reset themselves only.
        """
        if self.mode == self.modes.DISABLED:
            return self._reset(seeds, over)
        cut = np.flatnonzero(over & ~ended)
        if len(cut):
            raise WorldFaultError(
                f"'{self.name}': the episode of environment {cut[0]} must be cut (it diverged, or went past its time "
                f"limit), which a vector environment with {self.mode.value} reset does not allow. Correct the "
                "environment, or hand over a factory of single environments."
            )
        return None

    def _step(self, actions: np.ndarray) -> tuple:
        if self.timeout is None:
            return self.envs.step(actions)
        self.envs.step_async(actions)
        return self.envs.step_wait(timeout=self.timeout)

    def _reset(self, seeds: Sequence[int], mask: np.ndarray | None) -> Any:
        options = None if mask is None else {"reset_mask": mask}

        def reset():
            if self.timeout is None:
                return self.envs.reset(seed=list(seeds), options=options)
            self.envs.reset_async(seed=list(seeds), options=options)
            return self.envs.reset_wait(timeout=self.timeout)

        return self._guard(reset)[0]

    def _final(self, observation: Any, done: np.ndarray, info: dict[str, Any]) -> Any:
        if not done.any():
            return observation
        return _merged(observation, {int(index): info["final_obs"][index] for index in np.flatnonzero(done)})

    def _guard(self, call: Callable[[], Any]) -> Any:
        """Turns faults of environments and workers into sentences, and ends the other workers."""
        try:
            return call()
        except EnvironmentRaisedError as error:
            self._end()
            raise WorldFaultError(f"'{self.name}': an environment failed. {error}") from None
        except multiprocessing.TimeoutError as error:
            self._end()
            raise WorldFaultError(
                f"'{self.name}': an environment did not answer for {self.timeout:g} s; its process was ended. Pass "
                "--world-option timeout=SECONDS if its steps take that long."
            ) from error
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            for process in getattr(self.envs, "processes", []):
                process.join(0.2)  # a process that has just died has no exit code yet
            dead = [
                f"{index} (exit code {process.exitcode})"
                for index, process in enumerate(getattr(self.envs, "processes", []))
                if process.exitcode is not None or not process.is_alive()
            ]
            self._end()
            raise WorldFaultError(
                f"'{self.name}': the process of environment {', '.join(dead) or '?'} ended unexpectedly. A negative "
                "exit code is the signal that killed it (-9: often too little memory). The same command continues the "
                "run."
            ) from error
        except OSError as error:
            self._end()
            raise WorldFaultError(f"'{self.name}': the connection to an environment broke: {error}") from error
        except PenstockError:
            raise
        except Exception as error:  # of somebody's vector; single environments are guarded
            self._end()
            raise WorldFaultError(f"'{self.name}': the vector of environments raised {raised(error)}") from error

    def _end(self) -> None:
        self.closed = True
        for process in getattr(self.envs, "processes", []):
            with contextlib.suppress(Exception):
                process.kill()
                process.join(5.0)
        with contextlib.suppress(Exception):
            if hasattr(self.envs, "processes"):
                # Gymnasium would wait for the answer of a worker that is no more, and complain.
                self.envs._state = type(self.envs._state)("default")
                self.envs.close(terminate=True)
            else:
                self.envs.close()

    def scene_source(self) -> Any:
        """See `VectorEnvironment`."""
        return self.envs.envs[0] if getattr(self.envs, "envs", None) else None

    def close(self) -> None:
        """See `VectorEnvironment`."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(Exception):
                self.envs.close()


def _merged(batch: Any, last: dict[int, Any]) -> Any:
    """A batch of observations, with others in some of its places."""
    if isinstance(batch, dict):
        return {
            name: _merged(part, {index: value[name] for index, value in last.items()}) for name, part in batch.items()
        }
    if isinstance(batch, tuple):
        return tuple(
            _merged(part, {index: value[place] for index, value in last.items()}) for place, part in enumerate(batch)
        )
    merged = np.array(batch)
    for index, value in last.items():
        merged[index] = value
    return merged


FAILED = "an environment failed."
UNLIKE = "its environments do not fit together: all must have the same spaces."
ONE_COULD_BE_MADE = (
    "several environments could not be made, though one could. If there can be only one at a time (a port, a robot), "
    "pass --num-envs 1 --world-option single_instance=True."
)


def vectorize(
    make: Callable[[], Any],
    num_envs: int,
    vectorization: Vectorization,
    name: str,
    timeout: float,
    told: tuple[str, ...] = (),
) -> GymnasiumVector:
    """N environments of one kind.

    Args:
        make: makes one `gymnasium.Env`. For ``processes`` it is sent to them, with what it refers to.
        num_envs: N.
        vectorization: where they live.
        name: of the world, for messages.
        timeout: seconds to wait for environments in processes of their own.
        told: names of the entries of ``info`` that shall come through.

    Raises:
        ConfigurationError: the factory cannot be sent to another process.
    """
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

    makers = [functools.partial(_make_guarded, make, told)] * num_envs
    if vectorization == "serial":
        try:
            envs = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        except EnvironmentRaisedError as error:
            raise WorldFaultError(f"'{name}': {ONE_COULD_BE_MADE if num_envs > 1 else FAILED} {error}") from None
        except RuntimeError as error:  # of the vector itself, which compares their spaces
            raise WorldFaultError(f"'{name}': {UNLIKE} {error}") from error
        return GymnasiumVector(envs, name)
    _refuse_unpicklable(make, name)
    try:
        # Threads of JAX do not survive a fork.
        envs = AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise WorldFaultError(
            f"'{name}': a process could not make its environment, though this one could. Its traceback is above; use "
            "--world-option vectorization=serial if the environment cannot live in a process of its own."
        ) from error
    return GymnasiumVector(envs, name, timeout)


def _make_guarded(make: Callable[[], Any], told: tuple[str, ...]) -> Any:
    if multiprocessing.parent_process() is not None:
        # Ctrl-C reaches every process of a terminal. The run ends in its own time, and the workers with it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    import gymnasium

    with quiet_mujoco():
        env = called("making the environment", make)
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            # It unpacks what the environment returns, so what is wrong with that must be found inside it.
            env.env = guarded(env.env, told)
            return env
        return guarded(env, told)


def _refuse_unpicklable(make: Callable[[], Any], name: str) -> None:
    import cloudpickle

    try:
        cloudpickle.dumps(make)
    except Exception as error:
        raise ConfigurationError(
            f"'{name}': what makes the environment cannot be sent to another process ({type(error).__name__}: {error})."
            " Create inside the factory what it needs, or use --world-option vectorization=serial."
        ) from error
