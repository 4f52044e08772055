"""What is exported: one decision of an agent, as a function of one observation."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._processor import plain_forms
from penstock._types import AnyArray
from penstock.export.program import Program
from penstock.export.tracing import trace
from penstock.observation import Observation
from penstock.policies import Agent
from penstock.worlds import World

Mode = Literal["deterministic", "noise-fed"]
"""Whether the policy acts by its deterministic rule, or by noise that it is given."""

NOISE = "noise"
"""Name of the input that is the noise."""

MEMORY, NEXT_MEMORY = "memory", "next_memory"
"""Names of the input and the output of policies that remember: what is remembered before the decision, and after."""


def inputs_of(observation: Observation) -> dict[str, np.ndarray]:
    """Parts of one observation by the names of inputs; parts that it does not have are left out."""
    parts = {"observation": observation.vector, "points": observation.points, "pixels": observation.pixels}
    return {name: np.asarray(part) for name, part in parts.items() if part is not None and np.size(part)}


@dataclasses.dataclass(frozen=True)
class ActionRange:
    """The ends of actions, in the environment's own units, ``(d,)`` each."""

    low: Float[np.ndarray, "d"]
    high: Float[np.ndarray, "d"]

    @classmethod
    def of(cls, world: World) -> "ActionRange":
        """That of a world."""
        return cls(*world.action_range)

    @property
    def half_width(self) -> Float[np.ndarray, "d"]:
        """Half the length of each range."""
        return 0.5 * (self.high - self.low)

    def to_unit(self, action: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
        """The other way round."""
        return (action - 0.5 * (self.low + self.high)) / self.half_width

    def from_unit(self, action: Float[AnyArray, "*batch d"]) -> Float[Array, "*batch d"]:
        """Actions in [-1, 1] in the environment's units, float32, never outside."""
        middle, low, high = (jnp.asarray(x, jnp.float32) for x in (0.5 * (self.low + self.high), self.low, self.high))
        return jnp.clip(middle + jnp.asarray(self.half_width, jnp.float32) * action, low, high)


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """One decision of an agent.

    Attributes:
        agent: who decides.
        world: what it decides in.
        mode: how.
    """

    agent: Agent
    world: World
    mode: Mode = "deterministic"

    @property
    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each input: the parts of the observation that the world has, memory and noise."""
        spec = self.world.observation_spec
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        if spec.vector:
            shapes["observation"] = (spec.vector,), jnp.float32
        if spec.points:
            shapes["points"] = (spec.points, 3), jnp.float32
        if spec.pixels is not None:
            shapes["pixels"] = spec.pixels, jnp.uint8
        if self.agent.actor.recurrence is not None:
            shapes[MEMORY] = (self.agent.actor.memory_size,), jnp.float32
        if self.mode == "noise-fed":
            shapes[NOISE] = self.agent.actor.policy.noise_shape, jnp.float32
        return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}

    def __call__(self, **inputs: Any) -> dict[str, Float[Array, "..."]]:
        """The output ``action``, in the environment's units: ``(d,)``, or ``(C, d)`` of an agent that plans ahead.

        And ``next_memory``, of one that remembers.
        """
        agent = self.agent
        vector = inputs.get("observation", jnp.zeros((0,)))
        seen = agent.normalizer(Observation(vector, inputs.get("points"), inputs.get("pixels")))
        features, policy = agent.actor.encoder(seen), agent.actor.policy
        outputs = {}
        if agent.actor.recurrence is not None:
            outputs[NEXT_MEMORY], features = agent.actor.recurrence(inputs[MEMORY], features)
        if self.mode == "deterministic":
            drawn = agent.deterministic(policy, features)
        else:
            drawn = policy.draw(features, inputs[NOISE])
        chunk = agent.chunk_length
        action = drawn.action if chunk == 1 else drawn.action.reshape(chunk, -1)
        return {"action": ActionRange.of(self.world).from_unit(action), **outputs}

    def program(self) -> Program:
        """The decision as a list of array operations; the same on every machine.

        Raises:
            CapabilityError: see `trace`.
        """
        with plain_forms():
            return trace(self, self.inputs)

    def jitted(self) -> Any:
        """The decision as a compiled function of the inputs, by position: the action, and any memory."""
        names = list(self.inputs)

        def decide(*values):
            outputs = self(**dict(zip(names, values, strict=True)))
            return (outputs["action"], outputs[NEXT_MEMORY]) if NEXT_MEMORY in outputs else outputs["action"]

        return jax.jit(decide)
