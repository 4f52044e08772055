"""DMControl tasks as Gymnasium environments: seeded, with states or pixels.

An episode of DMControl ends by its time limit (discount 1: truncated) or inside the task (discount 0: terminated). The
observation is the dictionary of the task, flattened in the task's own order.
"""

import warnings
from typing import Any

import gymnasium
import numpy as np

from penstock._errors import ConfigurationError, PenstockError, require
from penstock.worlds.hosted.headless import opengl_advice
from penstock.worlds.hosted.packages import MissingPackageError, package, suggest_few

PIXEL_STACK = 3


def split_name(name: str, world: str) -> tuple[str, str]:
    """Domain and task of ``<domain>-<task>``.

    Raises:
        ConfigurationError: no such task; suggests the nearest.
    """
    suite = _suite(world)
    known = {f"{domain}-{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in known:
        raise ConfigurationError(
            f"{world}: DMControl has no such task.{suggest_few(name, known) or ' For example walker-run.'}"
        )
    return known[name]


def _suite(world: str) -> Any:
    mujoco = package("mujoco", world, "dmcontrol")
    if int(mujoco.__version__.split(".")[0]) >= 4:
        raise MissingPackageError(
            f"'{world}': dm_control reads fields that MuJoCo 4 dropped, and MuJoCo {mujoco.__version__} is installed: "
            "pip install 'penstock[dmcontrol]', which asks for mujoco<4."
        )
    with warnings.catch_warnings():
        # Without a screen, dm_control tries three kinds of OpenGL and warns of the first.
        warnings.filterwarnings("ignore", message=".*GLFWError")
        warnings.filterwarnings("ignore", message=".*DISPLAY environment variable")
        return package("dm_control.suite", world, "dmcontrol")


class DMControlEnvironment(gymnasium.Env):
    """One DMControl task.

    Args:
        domain: for example ``walker``.
        task: for example ``run``.
        action_repeat: control steps of the task per step of ours; rewards add up.
        max_episode_steps: our steps until the time limit; by default that of the task (1000 / action_repeat).
        pixels: observe pictures in place of the state. Needs an OpenGL that draws without a screen.
        image_size: height and width of a picture.
        camera: number of the camera.
    """

    metadata = {"render_modes": [None]}  # noqa: RUF012

    def __init__(
        self,
        domain: str,
        task: str,
        action_repeat: int = 1,
        max_episode_steps: int | None = None,
        pixels: bool = False,
        image_size: int = 84,
        camera: int = 0,
    ):
        require(action_repeat >= 1, "action_repeat", action_repeat, "must be at least 1")
        require(image_size >= 32, "image_size", image_size, "must be at least 32")
        self.world = f"dmc/{domain}-{task}"
        self.suite = _suite(self.world)
        self.action_repeat = action_repeat
        self.pixels, self.image_size, self.camera = pixels, image_size, camera
        self.env = self.suite.load(domain, task, task_kwargs={"random": 0})
        own_limit = self.env._step_limit  # of the task: infinite for some
        if max_episode_steps is None and own_limit == float("inf"):
            raise ConfigurationError(
                f"'{self.world}' has no time limit. Pass --world-option max_episode_steps=1000, or another number of "
                "control steps."
            )
        self.max_episode_steps: int = (
            max_episode_steps if max_episode_steps is not None else -(-round(own_limit) // action_repeat)
        )
        require(self.max_episode_steps >= 1, "max_episode_steps", self.max_episode_steps, "must be at least 1")
        require(
            (self.max_episode_steps - 1) * action_repeat < own_limit,
            "max_episode_steps",
            self.max_episode_steps,
            f"the task itself ends after {own_limit:g} control steps; choose fewer",
        )
        self.control_timestep = float(self.env.control_timestep()) * action_repeat
        actions = self.env.action_spec()
        self.action_space = gymnasium.spaces.Box(
            actions.minimum.astype(np.float32), actions.maximum.astype(np.float32), dtype=np.float32
        )
        self.names = list(self.env.observation_spec())
        size = sum(int(np.prod(spec.shape)) for spec in self.env.observation_spec().values())
        if pixels:
            shape = (PIXEL_STACK, image_size, image_size, 3)
            self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
            self.frames = np.zeros(shape, np.uint8)
        else:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.age = 0

    @property
    def physics(self) -> Any:
        """The task's physics."""
        return self.env.physics

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """See `gymnasium.Env`."""
        super().reset(seed=seed)
        if seed is not None:
            # A task draws its starts from a generator of its own, which dm_control seeds only when it makes the task.
            self.env.task._random = np.random.RandomState(seed)
        timestep = self.env.reset()
        self.age = 0
        if self.pixels:
            self.frames[:] = self._picture()
        return self._observation(timestep), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """See `gymnasium.Env`."""
        reward, timestep = 0.0, None
        for _ in range(self.action_repeat):
            timestep = self.env.step(action)
            reward += timestep.reward or 0.0
            if timestep.last():
                break
        assert timestep is not None
        self.age += 1
        terminated = bool(timestep.last() and timestep.discount == 0.0)
        truncated = bool(timestep.last() and not terminated) or self.age >= self.max_episode_steps
        if self.pixels:
            self.frames = np.concatenate([self.frames[1:], self._picture()[None]])
        return self._observation(timestep), reward, terminated, truncated, {}

    def _observation(self, timestep: Any) -> np.ndarray:
        return self.frames.copy() if self.pixels else self._joined(timestep.observation)

    def _get_obs(self) -> np.ndarray:
        """What is observed now, by the name that Gymnasium's environments have for it."""
        if self.pixels:
            self.frames[-1] = self._picture()
            return self.frames.copy()
        return self._joined(self.env.task.get_observation(self.env.physics))

    def _joined(self, observed: Any) -> np.ndarray:
        return np.concatenate([np.asarray(observed[name], np.float32).reshape(-1) for name in self.names])

    def _picture(self) -> np.ndarray:
        try:
            return self.env.physics.render(self.image_size, self.image_size, camera_id=self.camera)
        except Exception as error:
            raise PenstockError(
                f"'{self.world}' with pixels needs an OpenGL that draws without a screen, and none works here "
                f"({type(error).__name__}: {error}). {opengl_advice()}"
            ) from error
