"""Whether an exported file does what the trained agent does."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from penstock.export.decision import MEMORY, NOISE, ActionRange, Decision
from penstock.export.files import PolicyFile
from penstock.observation import Observation
from penstock.worlds.hosted.hosted_world import HostedWorld

TOLERANCE = 1e-5
"""Largest difference that passes, as a share of half the range of an action."""

RANDOM_OBSERVATIONS = 1000
SEQUENCE = 50
"""Observations behind which a policy that remembers begins anew."""
FAR = (1e1, 1e3, 1e6)
"""Edge observations lie so many standard deviations away, or are these numbers."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """Differences between the actions of a file and those of the agent that was exported.

    Attributes:
        largest: of all differences, as a share of half the range of the action.
        random: how many random observations were tried.
        edge: how many at the edges.
        worst: the vector of the observation with the largest difference.
    """

    largest: float
    random: int
    edge: int
    worst: Float[np.ndarray, "n"]

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough. False for NaN."""
        return self.largest <= TOLERANCE


def compare(decision: Decision, file: PolicyFile, seed: int = 0, count: int = RANDOM_OBSERVATIONS) -> Parity:
    """Runs observations through an agent and through the file that was made of it.

    The agent acts as it is evaluated: a batch of raw observations, compiled, its actions brought into the environment's
    box by the world. Of a policy that remembers, the observations are sequences: file and agent each carry on what they
    themselves remember.

    Args:
        decision: what was exported.
        file: the file, opened.
        seed: of the observations.
        count: random observations beside those at the edges.
    """
    inputs, edges = _observations(decision, np.random.default_rng(seed), count)
    total = count + edges
    expected = _by_agent(decision, inputs)
    half = ActionRange.of(decision.world).half_width
    differences, memory = np.zeros(total), None
    for index in range(total):
        if index % SEQUENCE == 0:
            memory = file.no_memory()
        now = {name: values[index] for name, values in inputs.items()}
        given, memory = file.outputs(now if memory is None else {**now, MEMORY: memory})
        relative = (np.asarray(given, np.float64) - expected[index]).reshape(-1, len(half)) / half
        differences[index] = np.abs(relative).max()
    worst = int(np.argmax(np.where(np.isnan(differences), np.inf, differences)))
    vector = inputs.get("observation", np.zeros((total, 0), np.float32))[worst]
    return Parity(float(differences[worst]), count, edges, vector)


def _by_agent(decision: Decision, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Actions ``(B, d)`` or ``(B, C, d)`` of the agent itself."""
    agent, world = decision.agent, decision.world
    total = len(next(iter(inputs.values())))
    vector = inputs.get("observation", np.zeros((total, 0), np.float32))
    observation = jax.tree.map(jnp.asarray, Observation(vector, inputs.get("points"), inputs.get("pixels")))

    @jax.jit
    def act(hidden, observation, noise):
        hidden, features = agent.recall(hidden, observation)
        if noise is None:
            return hidden, agent.draw(features, None).action
        return hidden, jax.vmap(agent.actor.policy.draw)(features, noise).action

    # One at a time, as a robot asks: what a batch rounds differently would count as the file's difference.
    noise, rows, hidden = inputs.get(NOISE), [], None
    for row in range(total):
        if row % SEQUENCE == 0:
            hidden = jnp.zeros((1, agent.actor.memory_size))
        seen = jax.tree.map(lambda leaf, row=row: leaf[row][None], observation)
        hidden, action = act(hidden, seen, None if noise is None else noise[row][None])
        rows.append(action)
    unit = np.concatenate([np.asarray(row) for row in rows]).reshape(-1, world.action_size)
    if isinstance(world, HostedWorld):
        scaled = world.declared.actions.from_unit(unit)
    else:
        low, high = world.action_range
        scaled = np.clip(low + 0.5 * (unit.astype(np.float64) + 1.0) * (high - low), low, high)
    chunk = agent.chunk_length
    return scaled.astype(np.float64).reshape((total, world.action_size) if chunk == 1 else (total, chunk, -1))


def _observations(decision: Decision, random: np.random.Generator, count: int) -> tuple[dict[str, np.ndarray], int]:
    """Random observations, about as they came in training; then such as a robot had better never see."""
    shapes = decision.inputs
    normalizer = decision.agent.normalizer
    spread = np.sqrt(np.asarray(normalizer.variance)) if normalizer.enabled else 1.0
    mean = np.asarray(normalizer.mean) if normalizer.enabled else 0.0
    edges = []
    if "observation" in shapes:
        size = shapes["observation"].shape[0]
        far = [mean + sign * distance * spread * np.ones(size) for distance in FAR for sign in (1.0, -1.0)]
        plain = [value * np.ones(size) for value in (0.0, 1e-40, *FAR, *(-value for value in FAR))]
        single = [mean + sign * FAR[1] * spread * np.eye(size)[entry] for entry in range(size) for sign in (1.0, -1.0)]
        edges = [*far, *plain, *single]
    edges = np.asarray(edges) if edges else np.zeros((0, 0))
    number = len(edges)
    made = {}
    for name, shape in shapes.items():
        if name == MEMORY:
            continue
        if shape.dtype == jnp.uint8:
            made[name] = random.integers(0, 256, (count + number, *shape.shape), np.uint8)
            continue
        values = random.standard_normal((count + number, *shape.shape))
        if name == "observation":
            values[:count] = mean + 2.0 * spread * values[:count]
            values[count:] = edges
        made[name] = values.astype(np.float32)
    return made, number
