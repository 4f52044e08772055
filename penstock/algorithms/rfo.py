"""RFO (reparameterization flow policy optimization): pathwise gradients through the flow, and two regularizers.

    a_t = tanh(x_K),  x_{k+1} = x_k + v(x_k, k/K | s_t) / K,  x_0 = eps_t ~ N(0, I)
    J(theta) = E[ sum_{t<H} gamma^t r_t + gamma^H mean_i V_i(s_H) ]
    L(theta) = -J / H + c_past L_past + c_uniform L_uniform
    L_past    = flow matching toward the latents x_K of the current and the previous window, at their states
    L_uniform = flow matching toward atanh(w), w uniform in the action box, at the current window's states

L_past keeps the action law near what was just played (stability), L_uniform spreads it (exploration); neither needs a
density. With both coefficients 0 this is the naive flow: SHAC2 with another policy. Critics as in SHAC2.

Source: arXiv 2602.03501. No reference code exists; where the paper could not be read, docs/rfo.md names the choice.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from penstock._errors import require
from penstock._types import Key, Scalar
from penstock.algorithms.flow_matching import flow_matching_loss
from penstock.algorithms.pathwise import Now, PathwiseLearner
from penstock.algorithms.pathwise_config import PathwiseConfig
from penstock.algorithms.window import Window
from penstock.networks import Normalizer
from penstock.observation import blank
from penstock.policies import Actor, Agent, FlowSettings, Need, PolicySettings
from penstock.policies.squash import uniform_action_latents
from penstock.worlds import Observation


@dataclasses.dataclass(frozen=True)
class Config(PathwiseConfig):
    """Settings of RFO."""

    policy: PolicySettings = FlowSettings()
    """The policy; its class first. RFO needs one with a velocity field: flow."""
    past_coefficient: float = 0.2
    """c_past, weight of flow matching toward the latents just played. Larger is steadier and slower; 0 removes it."""
    uniform_coefficient: float = 0.2
    """c_uniform, weight of flow matching toward uniform actions. Larger explores more; 0 removes it."""
    flow_matching_reduction: Literal["sum", "mean"] = "sum"
    """Over the entries of the action: sum (the squared norm) or mean (for action sizes above about 50)."""

    def __post_init__(self):
        super().__post_init__()
        for field in ("past_coefficient", "uniform_coefficient"):
            value = getattr(self, field)
            require(0.0 <= value < math.inf, field, value, "must be finite and at least 0")
        reduction = self.flow_matching_reduction
        require(reduction in ("sum", "mean"), "flow_matching_reduction", reduction, "must be 'sum' or 'mean'")


class PlayedWindow(eqx.Module):
    """RFO's memory: raw observations and latents of one window.

    Attributes:
        observation: ``(H, N, ...)``.
        latent: ``(H, N, C * d)``.
        valid: ``(H, N)``: whether the policy was consulted there; all False before the first window.
    """

    observation: Observation
    latent: Float[Array, "H N flat"]
    valid: Bool[Array, "H N"]


def played_window(window: Window) -> PlayedWindow:
    """What RFO remembers of a window."""
    return PlayedWindow(window.observation, window.latent, window.decision)


class Learner(PathwiseLearner[Config]):
    """Reparameterization flow policy optimization: see the module's equations."""

    name: ClassVar[str] = "rfo"
    needs: ClassVar[tuple[Need, ...]] = (Need.VELOCITY,)
    num_critics: ClassVar[int] = 2
    policy_hint: ClassVar[str] = "Use --policy flow, or shac2, the same algorithm for any policy."

    def initial_memory(self) -> PlayedWindow:
        """See `PathwiseLearner.initial_memory`."""
        shape = (self.config.window, self.world.num_envs)
        observation = jax.tree.map(
            lambda leaf: jnp.zeros((self.config.window, *leaf.shape), leaf.dtype),
            blank(self.world.observation_spec, self.world.num_envs),
        )
        flat = self.config.chunk_length * self.world.action_size
        return PlayedWindow(observation, jnp.zeros((*shape, flat)), jnp.zeros(shape, bool))

    def remember(self, now: Now) -> PlayedWindow:
        """Keeps this window for the next iteration's ``L_past``."""
        return played_window(now.window)

    def regularizer_gradients(self, now: Now) -> dict[str, Actor]:
        """Gradients of ``c_past L_past`` and ``c_uniform L_uniform`` with respect to the actor."""
        config = self.config
        current = played_window(now.window)
        previous: PlayedWindow = now.learned.memory
        played = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), current, previous)
        uniform = dataclasses.replace(
            current,
            latent=uniform_action_latents(now.key_for("uniform targets"), current.latent.shape),
        )
        gradients = {}
        for name, coefficient, data in (
            ("past", config.past_coefficient, played),
            ("uniform", config.uniform_coefficient, uniform),
        ):
            if coefficient == 0.0:
                continue
            key_noise = now.key_for(f"{name} noise")
            key_time = now.key_for(f"{name} time")
            loss, gradient = jax.value_and_grad(mean_flow_matching_loss)(
                now.learned.actor, now.learned.normalizer, data, key_noise, key_time, config.flow_matching_reduction
            )
            now.metrics[f"actor/{name}_loss"] = loss
            gradients[name] = jax.tree.map(lambda leaf, c=coefficient: c * leaf, gradient)
        return gradients


def mean_flow_matching_loss(
    actor: Actor,
    normalizer: Normalizer,
    data: PlayedWindow,
    key_noise: Key,
    key_time: Key,
    reduction: str,
) -> Scalar:
    """Mean of `flow_matching_loss` over the valid samples of ``data``, with fresh noise and flow time for each.

    Observations and latents are data: gradient reaches the actor's parameters alone.
    """
    flat = jax.tree.map(lambda leaf: jax.lax.collapse(jax.lax.stop_gradient(leaf), 0, 2), data)
    features = Agent(actor, normalizer).features(flat.observation)
    count = features.shape[0]
    losses = jax.vmap(flow_matching_loss, in_axes=(None, 0, 0, 0, 0))(
        actor.policy,
        features,
        flat.latent,
        jax.random.split(key_noise, count),
        jax.random.split(key_time, count),
    )
    if reduction == "mean":
        losses = losses / flat.latent.shape[-1]
    weight = flat.valid.astype(losses.dtype)
    return jnp.sum(weight * losses) / jnp.maximum(weight.sum(), 1.0)
