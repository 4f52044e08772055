"""EnvPool: all environments in one pool of C++ threads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock._errors import ConfigurationError
from penstock.worlds.hosted.vectorization import Played


class EnvPoolVector:
    """N environments of EnvPool.

    EnvPool seeds its environments once, when it is made, from one number; it draws later episodes itself. An episode
    that ended is reset by name before the next step, so that no step is spent on a reset.

    Args:
        envpool: the package.
        ident: of the environment.
        num_envs: N.
        seed: of the pool.
        options: for `envpool.make_gymnasium`.
    """

    def __init__(self, envpool: Any, ident: str, num_envs: int, seed: int, options: dict[str, Any]):
        try:
            self.pool = envpool.make_gymnasium(ident, num_envs=num_envs, seed=seed % 2**31, **options)
        except Exception as error:
            raise ConfigurationError(
                f"gym/{ident} in EnvPool cannot be made with {sorted(options)}: {error}"
            ) from error
        self.observation = None

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """See `VectorEnvironment`. The pool's own seed decides."""
        del seeds
        self.observation = np.array(self.pool.reset()[0])
        return self.observation

    def step(self, actions: np.ndarray) -> Played:
        """See `VectorEnvironment`."""
        observation, reward, terminated, truncated, info = self.pool.step(actions)
        self.observation = np.array(observation)
        ends = terminated.astype(bool), truncated.astype(bool)
        return Played(self.observation, reward, *ends, self.observation, None, info)

    def renew(self, over: np.ndarray, ended: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """See `VectorEnvironment`."""
        del ended, seeds
        which = np.flatnonzero(over).astype(np.int32)
        fresh = np.array(self.observation)
        fresh[which] = self.pool.reset(which)[0]
        return fresh

    def scene_source(self) -> None:
        """See `VectorEnvironment`."""

    def close(self) -> None:
        """See `VectorEnvironment`."""
        self.pool.close()
