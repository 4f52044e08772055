"""What goes wrong inside environments, as sentences that keep the original traceback."""

from collections.abc import Callable
from typing import Any

import numpy as np

from penstock._errors import PenstockError, raised
from penstock.worlds.hosted.infos import Listener

OLD_GYM = "Environments of the old gym package are wrapped with shimmy.GymV26CompatibilityV0."


class WorldFaultError(PenstockError, RuntimeError):
    """An environment raised, died, hung or returned something else than it declared. The run stops where it is."""


class EnvironmentRaisedError(RuntimeError):
    """An exception inside an environment, as text: it must cross the border between processes."""


def guarded(env: Any, told: tuple[str, ...] = ()) -> Any:
    """Wraps an environment so that what it raises, and what it returns wrongly, is told in full.

    Of what it says in ``info`` only the numbers that somebody wants pass: vectors of environments stumble where entries
    of two environments do not fit together, and what nobody reads need not be sent to another process.

    Args:
        env: a `gymnasium.Env`.
        told: names of the wanted entries of ``info``.
    """
    import gymnasium

    class Guarded(gymnasium.Wrapper):
        """See `guarded`."""

        def __init__(self, env):
            super().__init__(env)
            self.listener = Listener(told)
            self.usual: tuple[Any, ...] | None = None  # shape and dtype that have passed
            if env.metadata is None:
                self.metadata = {}  # vectors of environments cannot bear None

        def reset(self, *, seed=None, options=None):
            returned = called("reset()", lambda: self.env.reset(seed=seed, options=options))
            observation, _ = _parts(returned, "reset()", ("observation", "info"))
            self.check(observation, "reset()")
            return observation, {}

        def check(self, observation, what):
            array = type(observation) is np.ndarray
            if array and (observation.shape, observation.dtype) == self.usual:
                return
            space = self.env.observation_space
            _refuse_other_shapes(space, observation, what)
            if array and isinstance(space, gymnasium.spaces.Box):
                self.usual = observation.shape, observation.dtype

        def step(self, action):
            returned = called("step()", lambda: self.env.step(action))
            names = ("observation", "reward", "terminated", "truncated", "info")
            observation, reward, terminated, truncated, info = _parts(returned, "step()", names)
            self.check(observation, "step()")
            number = _number(reward)
            ends = _flag("terminated", terminated), _flag("truncated", truncated)
            return observation, number, *ends, self.listener.heard(info)

    return Guarded(env)


def called(what: str, call: Callable[[], Any]) -> Any:
    """Calls somebody's code; what it raises becomes text that keeps the traceback."""
    try:
        return call()
    except PenstockError:
        raise
    except (Exception, SystemExit) as error:
        told = raised(error)
        if isinstance(error, TypeError) and "unexpected keyword argument 'seed'" in str(error):
            first, _, rest = told.partition("\n")
            told = f"{first}. Write it as reset(self, *, seed=None, options=None). {OLD_GYM}\n{rest}"
        raise EnvironmentRaisedError(f"{what} raised {told}") from error


def _parts(returned: Any, what: str, names: tuple[str, ...]) -> tuple:
    if not isinstance(returned, tuple) or len(returned) != len(names):
        got = f"{len(returned)} values" if isinstance(returned, tuple) else f"a {type(returned).__name__}"
        raise EnvironmentRaisedError(f"{what} returned {got}; return ({', '.join(names)}). {OLD_GYM}")
    return returned


def _number(reward: Any) -> float:
    if isinstance(reward, float):  # of NumPy's own, too
        return float(reward)
    if np.ndim(reward) != 0:
        raise EnvironmentRaisedError(f"step() returned a reward of shape {np.shape(reward)}; return one number.")
    try:
        return float(reward)
    except (TypeError, ValueError):
        raise EnvironmentRaisedError(f"step() returned the reward {reward!r}; return one number.") from None


def _flag(name: str, flag: Any) -> bool:
    if not isinstance(flag, bool) and np.ndim(flag) != 0:
        raise EnvironmentRaisedError(f"step() returned {name} of shape {np.shape(flag)}; return one True or False.")
    return bool(flag)


def _refuse_other_shapes(space: Any, observation: Any, what: str, where: str = "") -> None:
    import gymnasium.spaces as spaces

    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict) or set(observation) != set(space.spaces):
            got = sorted(observation) if isinstance(observation, dict) else type(observation).__name__
            raise EnvironmentRaisedError(
                f"{what} returned an observation with {got}; observation_space declares {sorted(space.spaces)}. Return "
                "what the space declares, or declare what is returned."
            )
        for name, part in space.spaces.items():
            _refuse_other_shapes(part, observation[name], what, f"{where} '{name}'")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(observation, tuple | list) or len(observation) != len(space.spaces):
            got = len(observation) if isinstance(observation, tuple | list) else type(observation).__name__
            raise EnvironmentRaisedError(
                f"{what} returned an observation{where} with {got}; observation_space declares a tuple of "
                f"{len(space.spaces)}. Return what the space declares, or declare what is returned."
            )
        for index, part in enumerate(space.spaces):
            _refuse_other_shapes(part, observation[index], what, f"{where}[{index}]")
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        numbers = np.asarray(observation)
        fits = numbers.shape == (space.shape or ()) and numbers.dtype.kind in "biuf"
        if not fits or not space.contains(numbers.astype(space.dtype)[()]):
            raise EnvironmentRaisedError(
                f"{what} returned an observation{where} of {observation!r}; observation_space declares {space}. Return "
                "what the space declares, or declare what is returned."
            )
    elif isinstance(space, spaces.Box):
        try:
            numbers = np.asarray(observation)
            np.asarray(numbers, space.dtype)
        except (TypeError, ValueError) as error:
            raise EnvironmentRaisedError(
                f"{what} returned an observation{where} that is no array of numbers ({error}); observation_space "
                f"declares {space.shape}. Return what the space declares."
            ) from None
        if numbers.shape != space.shape:
            raise EnvironmentRaisedError(
                f"{what} returned an observation{where} of shape {numbers.shape}; observation_space declares "
                f"{space.shape}. Return what the space declares, or declare what is returned."
            )
        if not np.can_cast(numbers.dtype, space.dtype, "same_kind"):
            raise EnvironmentRaisedError(
                f"{what} returned an observation{where} of {numbers.dtype}, which does not fit into {space.dtype}; "
                "observation_space declares that. Return what the space declares, or declare what is returned."
            )
