"""What N hosted environments told in ``info``, over steps and over episodes.

An episode is a success if one of its steps was (as in Meta-World); at its end if the last step that told said so (as in
Stable-Baselines3). Both are counted. Numbers that a user names are means over steps.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from penstock.worlds.hosted.infos import SUCCESS

SUCCESS_RATES = ("success_rate", "success_rate_at_end")
"""Names of the two shares of episodes that succeed."""


class EpisodeInfo:
    """Successes of the episodes under way, and means of the numbers that a user names.

    Attributes:
        tells_success: whether an environment has ever said whether it succeeds.
    """

    def __init__(self, num_envs: int):
        self._num_envs = num_envs
        self.tells_success = False
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, np.ndarray] = {}
        self.begin(np.ones((num_envs,), bool))

    def begin(self, where: Bool[np.ndarray, "N"]) -> None:
        """Begins new episodes in these environments."""
        if where.all():
            self._once, self._last = np.zeros((self._num_envs,), bool), np.zeros((self._num_envs,), bool)
        else:
            self._once, self._last = self._once & ~where, self._last & ~where

    def add(self, diagnostics: Mapping[str, np.ndarray], alive: Bool[np.ndarray, "N"] | bool = True) -> None:
        """Takes in one step of the environments that are ``alive``; NaN was not told."""
        for name, values in diagnostics.items():
            told = ~np.isnan(values) & alive
            if name == SUCCESS:
                self.tells_success |= bool(told.any())
                self._last = np.where(told, values != 0, self._last)
                self._once = self._once | (told & self._last)
            else:
                nothing = np.zeros((self._num_envs,))
                self._sums[name] = self._sums.get(name, nothing) + np.where(told, values, 0.0)
                self._counts[name] = self._counts.get(name, nothing) + told

    def successes(self, where: Bool[np.ndarray, "N"]) -> dict[str, Float[np.ndarray, "E"]]:
        """Of these environments' episodes: 1 for success, else 0.

        An episode that told nothing counts as none: some environments tell their successes alone.
        """
        once, last = (flags[where].astype(np.float32) for flags in (self._once, self._last))
        return dict(zip(SUCCESS_RATES, (once, last), strict=True))

    def means(self) -> dict[str, Float[np.ndarray, "N"]]:
        """Means over the steps at which each environment told; NaN where one never did."""
        with np.errstate(invalid="ignore"):
            return {name: (total / self._counts[name]).astype(np.float32) for name, total in self._sums.items()}

    def take_mean(self) -> dict[str, float]:
        """Means over all steps since the last call; NaN where none told."""
        with np.errstate(invalid="ignore"):
            means = {name: float(total.sum() / self._counts[name].sum()) for name, total in self._sums.items()}
        for numbers in (self._sums, self._counts):
            for name in numbers:
                numbers[name] = np.zeros((self._num_envs,))
        return means

    def forget(self) -> None:
        """Begins everything anew, but for `tells_success`."""
        self.begin(np.ones((self._num_envs,), bool))
        self.take_mean()
