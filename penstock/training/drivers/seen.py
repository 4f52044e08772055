"""What hosted environments showed while they were played for learning, as it is logged."""

import numpy as np

from penstock.training.episode_info import EpisodeInfo
from penstock.worlds import Transition


class Seen:
    """What N environments showed since the last line of metrics, and the returns of the episodes under way."""

    def __init__(self, num_envs: int):
        self.returns = np.zeros((num_envs,))
        self.lengths = np.zeros((num_envs,))
        self.info = EpisodeInfo(num_envs)
        self._forget()

    def _forget(self) -> None:
        self.steps, self.reward, self.diverged = 0, 0.0, 0
        self.finished: list[float] = []
        self.finished_lengths: list[float] = []
        self.successes: list[dict[str, np.ndarray]] = []

    def add(self, transition: Transition) -> None:
        """Takes in one control step."""
        happened = np.ones(self.returns.shape, bool) if transition.valid is None else np.asarray(transition.valid)
        self.steps += int(happened.sum())
        self.reward += float(np.sum(transition.reward, where=happened))
        self.diverged += int(transition.diverged.sum())
        self.returns += np.where(happened, transition.reward, 0.0)
        self.lengths += happened
        self.info.add(transition.diagnostics)
        done = np.asarray(transition.done)
        if done.any():
            self.finished += self.returns[done].tolist()
            self.finished_lengths += self.lengths[done].tolist()
            self.returns[done] = self.lengths[done] = 0.0
            self.successes.append(self.info.successes(done))
            self.info.begin(done)

    def take(self) -> dict[str, float]:
        """Metrics of what came since the last call; a mean over episodes is NaN where none ended."""
        metrics = {
            "train/reward": self.reward / max(self.steps, 1),
            "train/episode_return": float(np.mean(self.finished)) if self.finished else float("nan"),
            "train/episode_length": float(np.mean(self.finished_lengths)) if self.finished else float("nan"),
            "world/diverged": float(self.diverged),
        }
        if self.info.tells_success:
            ended = [self.info.successes(np.zeros(self.returns.shape, bool)), *self.successes]
            for name in ended[0]:
                flags = np.concatenate([flags[name] for flags in ended])
                metrics[f"train/{name}"] = float(np.mean(flags)) if len(flags) else float("nan")
        metrics |= {f"train/{name}": value for name, value in self.info.take_mean().items()}
        self._forget()
        return metrics
