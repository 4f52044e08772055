"""From Gymnasium's spaces to ours: actions in [-1, 1]^d, and an `Observation` of a vector, pixels, or both."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from penstock._errors import CapabilityError, ConfigurationError
from penstock.networks.pixel_encoder import SMALLEST as SMALLEST_PICTURE
from penstock.observation import Observation, ObservationSpec

WIDEST_ACTION = 1e6
"""Bounds beyond it stand for "none": a policy that acts in the whole box would only ever try absurd actions."""

MOST_CHANNELS = 16
"""Channels, or stacked frames, of a picture at most."""


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
        # float32 would round where the box is [-1, 1] already
        unit = np.minimum(np.maximum(np.asarray(action, np.float64), -1.0), 1.0)
        scaled = self.low + 0.5 * (unit + 1.0) * (self.high - self.low)
        # Rounding may lead out of the box, in float64 and again in the box's own type.
        low, high = self._ends
        return np.minimum(np.maximum(scaled.astype(self.dtype), low), high).reshape(-1, *self.shape)

    @functools.cached_property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends in the box's own type."""
        return self.low.astype(self.dtype), self.high.astype(self.dtype)


def action_box(space: Any, name: str, limit: float | None = None) -> ActionBox:
    """Reads an action space.

    Args:
        space: of the environment.
        name: of the world, for messages.
        limit: narrows the box to what lies within +-limit; None for no such limit.

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
    if 0 in space.shape:
        raise ConfigurationError(f"'{name}': the action space has the shape {space.shape}; an action has entries.")
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    if limit is not None:
        low, high = np.maximum(low, -limit), np.minimum(high, limit)
    endless = np.flatnonzero(~(np.abs(low) <= WIDEST_ACTION) | ~(np.abs(high) <= WIDEST_ACTION))
    if len(endless):
        raise ConfigurationError(
            f"'{name}': action {endless[0]} has the bounds [{low[endless[0]]:g}, {high[endless[0]]:g}]; every "
            f"bound must be finite, and within +-{WIDEST_ACTION:g}, because policies act in the whole box. "
            "Declare the range that its actuators have, as the environment's action_space, or pass --world-option "
            "action_limit=1.0 (actions then lie in [-1, 1], or in what is left of the box there)."
        )
    wrong = np.flatnonzero(low >= high)
    if len(wrong):
        raise ConfigurationError(
            f"'{name}': action {wrong[0]} has the bounds [{low[wrong[0]]:g}, {high[wrong[0]]:g}]; the lower must be "
            "smaller. Correct the action_space of the environment."
        )
    return ActionBox(low, high, space.shape, space.dtype)


@dataclasses.dataclass(frozen=True)
class Part:
    """One leaf of an observation space.

    Attributes:
        path: names and indices that lead to it; () where the space is one leaf.
        shape: of one value.
        low: ``(n,)`` declared bounds of its numbers, flattened.
        high: ``(n,)``.
        choices: where it is discrete, how many values each entry has, and the first of them; they become one-hot.
        axes: where it is a picture, the order in which its axes become (height, width, ...); the rest are channels.
    """

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray
    choices: tuple[np.ndarray, np.ndarray] | None = None
    axes: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The path in words."""
        return ".".join(map(str, self.path))

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        assert self.axes is not None
        sizes = [self.shape[axis] for axis in self.axes]
        return sizes[0], sizes[1], int(np.prod(sizes[2:]))

    def of(self, observation: Any) -> Any:
        """Its value, or batch of values, in an observation of the whole space."""
        for step in self.path:
            observation = observation[step]
        return observation

    def numbers(self, values: Any) -> np.ndarray:
        """``(N, n)`` of a batch of values."""
        flat = np.asarray(values)
        flat = flat.reshape(flat.shape[0], -1)
        if self.choices is None:
            return flat.astype(np.float32, copy=False)
        hot = [
            np.arange(count) == (flat[:, [entry]] - first)
            for entry, (count, first) in enumerate(zip(*self.choices, strict=True))
        ]
        return np.concatenate(hot, axis=1).astype(np.float32)

    def pixels(self, values: Any) -> np.ndarray:
        """``(N, height, width, channels)`` of a batch of pictures."""
        assert self.axes is not None
        batch = np.asarray(values)
        ordered = np.transpose(batch, (0, *(axis + 1 for axis in self.axes)))
        return ordered.reshape(batch.shape[0], *self.picture)


@dataclasses.dataclass(frozen=True)
class ObservationReader:
    """Reads batched observations of one space.

    Attributes:
        spec: sizes.
        vectors: parts that form the vector, one behind the other.
        pictures: parts that are pictures; their channels are put together.
        image_size: height and width to which pictures are brought; None keeps theirs.
    """

    spec: ObservationSpec
    vectors: tuple[Part, ...]
    pictures: tuple[Part, ...]
    image_size: int | None = None

    @property
    def low(self) -> np.ndarray:
        """``(n,)`` declared bounds of the vector."""
        return np.concatenate([np.zeros((0,)), *(part.low for part in self.vectors)])

    @property
    def high(self) -> np.ndarray:
        """``(n,)``."""
        return np.concatenate([np.zeros((0,)), *(part.high for part in self.vectors)])

    def read_any(self, observation: Any) -> tuple[Observation, bool]:
        """One observation, or a batch of them, as the space's environment gives it.

        Returns:
            The observation with a leading axis, and whether it came without one.

        Raises:
            ConfigurationError: it is not of this space.
        """
        parts = (*self.vectors, *self.pictures)
        found: dict[str, np.ndarray] = {}
        for part in parts:
            with contextlib.suppress(KeyError, IndexError, TypeError):
                found[part.name] = np.asarray(part.of(observation))
        extra = {found[part.name].ndim - len(part.shape) for part in parts if part.name in found}
        fits = all(
            part.name in found and found[part.name].shape[found[part.name].ndim - len(part.shape) :] == part.shape
            for part in parts
        )
        if not fits or extra not in ({0}, {1}):
            wanted = {part.name: part.shape for part in parts}
            shapes = {name: value.shape for name, value in found.items()}
            told, seen = (" and ".join(f"{n} {s}".strip() for n, s in d.items()) for d in (wanted, shapes))
            raise ConfigurationError(
                f"observation: the environment's has the shape {told}, and this one {seen or type(observation)}. "
                "Pass one as the environment gives it, or a batch with one more axis in front."
            )
        single = extra == {0}
        return self._assembled(lambda part: found[part.name][None] if single else found[part.name]), single

    def read(self, batch: Any) -> Observation:
        """Observations of N environments, as their vector environment batches them."""
        return self._assembled(lambda part: part.of(batch))

    def _assembled(self, values: Callable[[Part], Any]) -> Observation:
        flat = [part.numbers(values(part)) for part in self.vectors]
        if not self.pictures:
            return Observation(flat[0].copy() if len(flat) == 1 else np.concatenate(flat, axis=1))
        pictures = [resized(part.pixels(values(part)), self.image_size) for part in self.pictures]
        pixels = pictures[0].copy() if len(pictures) == 1 else np.concatenate(pictures, axis=-1)
        vector = np.concatenate(flat, axis=1) if flat else np.zeros((pixels.shape[0], 0), np.float32)
        return Observation(vector, pixels=pixels)


def resized(pictures: UInt8[np.ndarray, "N H W C"], size: int | None) -> UInt8[np.ndarray, "N rows columns C"]:
    """Pictures brought to another height and width: means over the areas that each new pixel covers."""
    if size is None or pictures.shape[1:3] == (size, size):
        return pictures
    rows, columns = (_coverage(old, size) for old in pictures.shape[1:3])
    result = np.einsum("ah,nhwc,bw->nabc", rows, pictures.astype(np.float32), columns, optimize=True)
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


@functools.cache
def _coverage(old: int, new: int) -> np.ndarray:
    """``(new, old)`` the share of each old pixel in the area of each new one, along one axis."""
    edges = np.arange(new + 1) * old / new
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)
    covered = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0.0, None)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)


def observation_reader(space: Any, name: str, image_size: int | None = None) -> ObservationReader:
    """Reads an observation space.

    Boxes are flattened, discrete entries become one-hot; dictionaries (in the order of their names) and tuples may be
    nested. Bytes of at least `SMALLEST_PICTURE` rows and columns are pictures: gray, with channels last or first,
    frames stacked or not.

    Args:
        space: of the environment.
        name: of the world, for messages.
        image_size: height and width to which pictures are brought; None keeps theirs.

    Raises:
        CapabilityError: the space holds something else, or pictures of several sizes.
        ConfigurationError: it holds nothing, or no picture of which the size could be chosen.
    """
    parts = list(_leaves(space, (), name))
    pictures = tuple(part for part in parts if part.axes is not None)
    vectors = tuple(part for part in parts if part.axes is None)
    size = sum(len(part.low) for part in vectors)
    if not pictures and size == 0:
        raise ConfigurationError(f"'{name}': the observation space {space} holds no number. Correct it.")
    if image_size is not None and not pictures:
        raise ConfigurationError(
            f"'{name}': image_size = {image_size}: does nothing, because nothing that is observed is a picture: a box "
            f"of bytes (uint8) of at least {SMALLEST_PICTURE} x {SMALLEST_PICTURE}. Leave it out, or correct the space."
        )
    if not pictures:
        return ObservationReader(ObservationSpec(vector=size), vectors, ())
    sizes = {part.picture[:2] for part in pictures} if image_size is None else {(image_size, image_size)}
    if len(sizes) > 1:
        told = ", ".join(f"{part.name} {part.picture[0]} x {part.picture[1]}" for part in pictures)
        raise CapabilityError(
            f"'{name}': the observation space has pictures of several sizes ({told}). Bring them to one size: "
            "--world-option image_size=84."
        )
    channels = sum(part.picture[2] for part in pictures)
    spec = ObservationSpec(vector=size, pixels=(*sizes.pop(), channels))
    return ObservationReader(spec, vectors, pictures, image_size)


def _leaves(space: Any, path: tuple[Any, ...], name: str) -> Iterator[Part]:
    import gymnasium.spaces as spaces

    if isinstance(space, spaces.Dict):
        for key in sorted(space.spaces):
            yield from _leaves(space.spaces[key], (*path, key), name)
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _leaves(part, (*path, index), name)
    elif isinstance(space, spaces.Box):
        low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
        yield Part(path, tuple(space.shape), low, high, axes=_picture_axes(space))
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        many = isinstance(space, spaces.MultiDiscrete)
        counts = np.asarray(space.nvec if many else space.n, int).reshape(-1)
        first = np.broadcast_to(np.asarray(space.start, int), np.shape(space.nvec) if many else ()).reshape(-1)
        size = int(counts.sum())
        yield Part(path, tuple(space.shape or ()), np.zeros(size), np.ones(size), (counts, first))
    elif isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        yield Part(path, tuple(space.shape), np.zeros(size), np.ones(size))
    else:
        where = f"the part '{'.'.join(map(str, path))}' of the observation space" if path else "the observation space"
        raise CapabilityError(
            f"'{name}': {where} is {space}, whose values are no fixed number of numbers. Wrap the environment in "
            "gymnasium.wrappers.FilterObservation or TransformObservation, so that it observes boxes."
        )


def _picture_axes(space: Any) -> tuple[int, ...] | None:
    """How the axes of a picture become (height, width, ...), or None where a box is none."""
    shape, axes = space.shape, len(space.shape)
    if space.dtype != np.uint8 or axes not in (2, 3, 4):
        return None
    first = shape[-3:]  # of one frame
    if axes == 2:
        order = (0, 1)
    elif first[2] <= MOST_CHANNELS:  # channels last
        order = (axes - 3, axes - 2, *range(axes - 3), axes - 1)
    elif first[0] <= MOST_CHANNELS:  # channels first, or gray frames stacked
        order = (axes - 2, axes - 1, *range(axes - 2))
    else:
        return None
    return order if min(shape[order[0]], shape[order[1]]) >= SMALLEST_PICTURE else None
