"""Plays an exported policy in a world: the file acts, not the checkpoint.

A hosted environment is stepped as it is, without Penstock's batches and automatic reset, with the actions that the file
gives: what a robot's program would do.
"""

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import numpy as np

from penstock._errors import CapabilityError, ConfigurationError, PenstockError, raised
from penstock.export.decision import ActionRange, inputs_of
from penstock.export.files import Player, PolicyFile
from penstock.observation import ObservationSpec
from penstock.scene.items import Scene
from penstock.worlds import FunctionalWorld, World
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.packages import quiet_mujoco
from penstock.worlds.hosted.pictures import frame_of, model_and_data, scene_of


@dataclasses.dataclass(frozen=True)
class Step:
    """One control step of an episode.

    Attributes:
        t: number of the step, from 0.
        reward: what it brought.
        terminated: whether the episode ended inside the task.
        truncated: whether it met its time limit.
        picture: draws the state after the step: a scene for our renderer, or a frame ``(rows, columns, 3)``.
    """

    t: int
    reward: float
    terminated: bool
    truncated: bool
    picture: Callable[[], Scene | np.ndarray | None]


@dataclasses.dataclass
class Tally:
    """What an episode brought."""

    seed: int
    total: float = 0.0
    steps: int = 0
    ending: str = "stopped"

    def over(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The same steps, counted as they pass."""
        for step in steps:
            self.total += step.reward
            self.steps += 1
            self.ending = "terminated" if step.terminated else "time limit" if step.truncated else self.ending
            yield step

    def line(self) -> str:
        """For people."""
        return f"seed {self.seed}: return {self.total:.6g}, {self.steps} steps, {self.ending}"


def refuse_misfit(file: PolicyFile, world: World) -> None:
    """Refuses a world whose observations or actions are not those of the policy.

    Raises:
        ConfigurationError: says which.
    """
    spec: ObservationSpec = world.observation_spec
    has: dict[str, tuple[int, ...]] = {"observation": (file.history * spec.vector,)} if spec.vector else {}
    has |= {"points": (spec.points, 3)} if spec.points else {}
    has |= {"pixels": spec.pixels} if spec.pixels is not None else {}
    trained = f"It was trained on '{file.metadata['world']['name']}'."
    for name, (shape, _) in file.inputs.items():
        if name in ("observation", "points", "pixels") and has.get(name) != shape:
            raise ConfigurationError(
                f"'{world.name}' does not fit '{file.path}': the policy reads {name} of shape {shape}, and the world "
                f"has {has.get(name, 'none')}. {trained}"
            )
    size = file.metadata["action"]["size"]
    if size != world.action_size:
        raise ConfigurationError(
            f"'{world.name}' does not fit '{file.path}': the policy makes {size} actions, and the world takes "
            f"{world.action_size}. {trained}"
        )


def play(
    file: PolicyFile, world: World, seed: int, *, pictures: bool = False, viewer: bool = False
) -> Generator[Step, None, None]:
    """Plays one episode.

    Args:
        file: who acts.
        world: where.
        seed: of the reset, and of the noise where the policy takes any.
        pictures: whether `Step.picture` is going to be asked for.
        viewer: show it in a window, in real time.

    Raises:
        ConfigurationError: the world does not fit.
        PenstockError: the environment fails, or there is no window.
    """
    refuse_misfit(file, world)
    player = Player(file, np.random.default_rng(seed))
    if isinstance(world, HostedWorld):
        yield from _play_hosted(player, world, seed, pictures, viewer)
    elif isinstance(world, FunctionalWorld):
        if viewer:
            raise CapabilityError(f"'{world.name}' has no window: it is no MuJoCo environment. Leave out --viewer.")
        yield from _play_functional(player, world, seed)
    else:
        raise CapabilityError(f"'{world.name}' is a {type(world).__name__}, which cannot be played.")


def _play_functional(player: Player, world: FunctionalWorld, seed: int) -> Iterator[Step]:
    world = world.with_num_envs(1)
    state, step = jax.jit(world.reset)(jax.random.key(seed)), jax.jit(world.step)
    ends = ActionRange.of(world)
    for t in range(world.episode_length):
        action = player.act(inputs_of(jax.tree.map(lambda leaf: leaf[0], state.observation)))
        before, (state, transition) = state, step(state, ends.to_unit(action).astype(np.float32)[None])
        body = before.body if bool(transition.done[0]) else state.body  # a body that has ended is a new one already
        told = bool(transition.terminated[0]), bool(transition.truncated[0])
        yield Step(t, float(transition.reward[0]), *told, lambda body=body: world.task.scene(jax.device_get(body), 0))
        if any(told):
            return


def _play_hosted(player: Player, world: HostedWorld, seed: int, pictures: bool, viewer: bool) -> Iterator[Step]:
    source, declared = world.source, world.declared
    if source.make_vector is not None:
        raise CapabilityError(
            f"'{world.name}' comes as a vector of environments; a file is played in a single one. Name a function that "
            "makes one: path/to/file.py:name."
        )
    renders = pictures and declared.pictures == "rgb_array" and source.make_rendering is not None
    with quiet_mujoco():
        env = (source.make_rendering if renders else source.make)()  # pyright: ignore[reportOptionalCall]

    def picture(t):
        caption = f"t = {(t + 1) * world.control_timestep:.2f} s"
        return scene_of(env, caption) if declared.pictures == "scene" else frame_of(env, world.name)

    try:
        with _window(env, world.name) if viewer else contextlib.nullcontext(lambda: None) as shown:
            observation = _asked(world.name, "reset", lambda: env.reset(seed=seed))[0]
            for t in range(world.episode_length):
                start = time.perf_counter()
                read, _ = declared.reader.read_any(observation)
                action = player.act(inputs_of(jax.tree.map(lambda leaf: leaf[0], read)))
                action = np.asarray(action, declared.actions.dtype).reshape(declared.actions.shape)
                observation, reward, terminated, truncated, _ = _asked(
                    world.name, "step", lambda action=action: env.step(action)
                )
                truncated = bool(truncated) or t + 1 >= world.episode_length
                yield Step(t, float(reward), bool(terminated), truncated, functools.partial(picture, t))
                shown()
                if viewer:
                    time.sleep(max(0.0, world.control_timestep - (time.perf_counter() - start)))
                if terminated or truncated:
                    return
    finally:
        with contextlib.suppress(Exception):
            env.close()


def _asked(name: str, what: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except PenstockError:
        raise
    except (Exception, SystemExit) as error:
        raise PenstockError(f"'{name}': {what}() raised {raised(error)}") from error


@contextlib.contextmanager
def _window(env: Any, name: str) -> Iterator[Callable[[], None]]:
    """MuJoCo's viewer of an environment's model; what it yields shows the present state."""
    found = model_and_data(env)
    if found is None:
        raise CapabilityError(f"'{name}' is no environment of MuJoCo's, whose viewer --viewer opens. Leave it out.")
    needs = "It needs a display; without one, leave out --viewer and look at the film."
    if not _has_display():  # MuJoCo would end the whole process
        raise PenstockError(f"MuJoCo's viewer does not open here: no display was found. {needs}")
    try:
        import mujoco.viewer

        opened = mujoco.viewer.launch_passive(*found)
    except Exception as error:
        raise PenstockError(f"MuJoCo's viewer does not open here ({type(error).__name__}: {error}). {needs}") from error
    with opened:
        yield opened.sync


def _has_display() -> bool:
    """Whether GLFW, which the viewer draws with, finds a display."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it returns
        try:
            import glfw

            return bool(glfw.init())
        except Exception:
            return False
