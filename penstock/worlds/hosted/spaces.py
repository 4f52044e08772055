"""From Gymnasium's spaces to ours: actions in [-1, 1]^d, and an `Observation` of a vector, pixels, or both."""

import dataclasses
from typing import Any

import numpy as np

from penstock._errors import CapabilityError, ConfigurationError
from penstock.observation import Observation, ObservationSpec


@dataclasses.dataclass(frozen=True)
class ActionBox:
    """The box of an environment's actions; ours is [-1, 1]^d.

    Attributes:
        low: ``(d,)`` flattened.
        high: ``(d,)``.
        shape: as the environment wants it.
        dtype: likewise.
    """

    low: np.ndarray
    high: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype

    def from_unit(self, action: np.ndarray) -> np.ndarray:
        """``(N, d)`` in [-1, 1] to ``(N, *shape)`` in the box."""
        # In float64: float32 would round where the box is [-1, 1] already.
        unit = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        scaled = self.low + 0.5 * (unit + 1.0) * (self.high - self.low)
        return scaled.astype(self.dtype).reshape(-1, *self.shape)


def action_box(space: Any, name: str) -> ActionBox:
    """Reads an action space.

    Raises:
        CapabilityError: the actions are not continuous.
        ConfigurationError: a bound is infinite, or reversed.
    """
    import gymnasium.spaces as spaces

    if not isinstance(space, spaces.Box):
        raise CapabilityError(
            f"'{name}' has the action space {space}; Penstock's policies make continuous actions and need a "
            "Box. Choose another environment, or wrap it so that its actions are continuous."
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise CapabilityError(
            f"'{name}' has actions of type {space.dtype}; Penstock's policies make continuous ones, which would be cut "
            "off to whole numbers. Declare the Box with dtype=np.float32 and round inside the environment."
        )
    if space.shape == () or 0 in space.shape:
        raise ConfigurationError(f"'{name}': the action space has the shape {space.shape}; an action has entries.")
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    # Numbers near the largest float32 stand for infinity in many environments.
    endless = np.flatnonzero(~(np.abs(low) < 1e30) | ~(np.abs(high) < 1e30))
    if len(endless):
        raise ConfigurationError(
            f"'{name}': action {endless[0]} has the bounds [{low[endless[0]]:g}, {high[endless[0]]:g}]; every bound "
            "must be finite, because policies act in a box. Declare the range that its actuators have: a finite "
            "gymnasium.spaces.Box as the environment's action_space."
        )
    wrong = np.flatnonzero(low >= high)
    if len(wrong):
        raise ConfigurationError(
            f"'{name}': action {wrong[0]} has the bounds [{low[wrong[0]]:g}, {high[wrong[0]]:g}]; the lower must be "
            "smaller. Correct the action_space of the environment."
        )
    return ActionBox(low, high, space.shape, space.dtype)


@dataclasses.dataclass(frozen=True)
class ObservationReader:
    """Reads batched observations of one space.

    Attributes:
        spec: sizes.
        vectors: names of the parts that form the vector; ("",) where the space is one box.
        image: name of the part that is an image; None where there is none.
        stacked: whether the image has a leading axis of stacked frames.
        low: ``(n,)`` declared bounds of the vector.
        high: ``(n,)``.
        shapes: of the parts, by name.
    """

    spec: ObservationSpec
    vectors: tuple[str, ...]
    image: str | None
    stacked: bool
    low: np.ndarray
    high: np.ndarray
    shapes: dict[str, tuple[int, ...]]

    def read_any(self, observation: Any) -> tuple[Observation, bool]:
        """One observation, or a batch of them, as the space's environment gives it.

        Returns:
            The observation with a leading axis, and whether it came without one.

        Raises:
            ConfigurationError: it is not of this space.
        """
        parts = observation if isinstance(observation, dict) else {"": observation}
        found = {name: np.asarray(value) for name, value in parts.items() if name in self.shapes}
        extra = {found[name].ndim - len(shape) for name, shape in self.shapes.items() if name in found}
        fits = all(name in found and found[name].shape[-len(shape) :] == shape for name, shape in self.shapes.items())
        if not fits or extra not in ({0}, {1}):
            shapes = {name: found[name].shape for name in found}
            wanted, seen = (" and ".join(f"{n} {s}".strip() for n, s in d.items()) for d in (self.shapes, shapes))
            raise ConfigurationError(
                f"observation: the environment's has the shape {wanted}, and this one {seen or type(observation)}. "
                "Pass one as the environment gives it, or a batch with one more axis in front."
            )
        single = extra == {0}
        return self.read({name: value[None] if single else value for name, value in found.items()}), single

    def read(self, batch: Any) -> Observation:
        """Observations of N environments, as their vector environment batches them."""
        parts = batch if isinstance(batch, dict) else {"": batch}
        flat = [np.asarray(parts[name], np.float32) for name in self.vectors]
        flat = [part.reshape(part.shape[0], -1) for part in flat]
        if self.image is None:
            return Observation(flat[0].copy() if len(flat) == 1 else np.concatenate(flat, axis=1))
        pixels = np.asarray(parts[self.image])
        if self.stacked:  # (N, frames, H, W, C) to (N, H, W, frames * C)
            pixels = np.moveaxis(pixels, 1, -2).reshape(pixels.shape[0], *pixels.shape[2:4], -1)
        vector = np.concatenate(flat, axis=1) if flat else np.zeros((pixels.shape[0], 0), np.float32)
        return Observation(vector, pixels=pixels.copy())


def observation_reader(space: Any, name: str) -> ObservationReader:
    """Reads an observation space: a box, or a dictionary of boxes (flattened in the order of its names).

    Bytes of three axes (height, width, channels), or four with stacked frames first, are an image.

    Raises:
        CapabilityError: the space holds something else than boxes, or several images.
    """
    import gymnasium.spaces as spaces

    parts: dict[str, Any] = dict(sorted(space.spaces.items())) if isinstance(space, spaces.Dict) else {"": space}
    for part, box in parts.items():
        if not isinstance(box, spaces.Box):
            where = f"the part '{part}' of the observation space" if part else "the observation space"
            raise CapabilityError(
                f"'{name}': {where} is {box}, no Box. Wrap the environment in gymnasium.wrappers.FlattenObservation."
            )
    images = [part for part, box in parts.items() if box.dtype == np.uint8 and len(box.shape) >= 3]
    vectors = tuple(part for part in parts if part not in images)
    size = sum(int(np.prod(parts[part].shape)) for part in vectors)
    if len(images) > 1:
        raise CapabilityError(
            f"'{name}': the observation space has {len(images)} images ({', '.join(images)}); one is possible. Stack "
            "them along their channels in a wrapper."
        )
    low, high = (
        np.concatenate([np.zeros((0,)), *(getattr(parts[part], side).reshape(-1) for part in vectors)])
        for side in ("low", "high")
    )
    shapes = {part: tuple(box.shape) for part, box in parts.items()}
    if not images and size == 0:
        raise ConfigurationError(f"'{name}': the observation space {space} holds no number. Correct it.")
    if not images:
        return ObservationReader(ObservationSpec(vector=size), vectors, None, False, low, high, shapes)
    shape = parts[images[0]].shape
    stacked = len(shape) == 4
    height, width, channels = shape[-3:]
    pixels = (height, width, channels * (shape[0] if stacked else 1))
    spec = ObservationSpec(vector=size, pixels=pixels)
    return ObservationReader(spec, vectors, images[0], stacked, low, high, shapes)
