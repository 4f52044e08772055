"""SAC Flow (arXiv 2509.25756): SAC whose policy is a K-step flow with noise at every step.

The density in SAC's losses is that of the whole path x_0 .. x_K, which is exact for any velocity and any K:

    y  = r + gamma (1 - terminated) [ min_i Q_i(s', a') - alpha log p(x_0 .. x_K, a' | s') ]
    pi:  minimise alpha log p(x_0 .. x_K, a | s) - min_i Q_i(s, a)
    H  = d (c (K + 1) + K log target_step_std),  c = 0.5 log(2 pi e)       so that K may change

The rollout is a residual recurrent network, whose gradients, the paper reports, explode with a plain MLP velocity;
gated (Flow-G) and decoded (Flow-T) velocities are its cure. docs/sac_flow.md has what we measured. Everything else is
sac.py, by default on CrossQ's critics (``critic = crossq``). This file follows the paper, with an exact density. The
released code (Elessar123/SAC-FLOW at 3df8b9d) differs in noise, density, candidate, sizes and norms: `reference_code`
lists how, and each difference is a setting of its own.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax

from penstock._errors import ConfigurationError, require
from penstock._types import Key
from penstock.algorithms import sac
from penstock.algorithms.off_policy_config import refuse_idle
from penstock.networks import Trunk
from penstock.policies import MarginalFlow, NoisyFlow, Policy
from penstock.policies.noisy_flow import NoiseEntry, path_entropy_target
from penstock.policies.released_velocities import make_released_velocity
from penstock.policies.velocity_fields import DecoderName, VelocityName, make_velocity
from penstock.worlds import World


@dataclasses.dataclass(frozen=True)
class Config(sac.Config):
    """Settings of SAC Flow."""

    velocity: VelocityName = "gated"
    """Velocity field: mlp, affine, gated (Flow-G) or decoded (Flow-T, whose width is the first of ``actor_hidden``)."""
    flow_steps: int = 4
    """K, steps from noise to action."""
    drift: bool = True
    """Drift correction that keeps the marginals of an ideal flow under the added noise."""
    learn_noise: bool = True
    """Learn the noise scale."""
    noise_depends_on: Literal["state", "path"] = "state"
    """What a learned noise scale sees: state, or path (state, latent and flow time, by a second head of the velocity).
    Paper: state; released code: path with mlp and decoded."""
    noise_enters: NoiseEntry = "diffusion"
    """Noise that a step adds to the latent: diffusion (sigma sqrt(dtau), paper), latent (sigma) or velocity (sigma
    dtau). Released code: velocity with decoded, else latent."""
    density: Literal["exact", "noise-only"] = "exact"
    """log p of a path: exact, or noise-only, which leaves out the scale of the noise (released code with decoded)."""
    squash_log_det: Literal["exact", "epsilon"] = "exact"
    """log det of tanh: exact, or epsilon, the released code's log(1 - tanh^2 + 1e-6)."""
    entropy: Literal["path", "action"] = "path"
    """Whose entropy is regulated: path (paper), or action, estimated as a mixture over ``other_paths`` more paths of
    the same state. Only the latter rewards a spread of modes. Its target is SAC's, -d."""
    other_paths: int = 8
    """With entropy = action: M, further paths per state."""
    networks: Literal["paper", "released"] = "paper"
    """Networks of velocity and noise: the paper's, or the released from-scratch code's: BatchRenorm inside, post-norm
    blocks in Flow-T, Flow-G with an embedding of time and two layers of 512 for its noise. The released ones have
    activations of their own, and draw initial weights as Flax does."""
    candidate_bound: float | None = 50.0
    """gated: the candidate is this times tanh. Paper: 50; None, linear, as in the released code."""
    decoder: DecoderName = "pre-norm"
    """decoded: LayerNorm before each part (pre-norm, paper) or after each sum (post-norm, released code)."""
    target_step_std: float = 0.1697
    """Standard deviation per step at which the target entropy is met; also where the noise starts. 0.1697 gives H = 0
    at K = 4."""
    critic: Literal["target", "crossq"] = "crossq"
    """Critic base: target (slowly following copies) or crossq (BatchRenorm, no target network)."""
    critic_hidden: tuple[int, ...] = (1024, 1024)
    """Widths of the critics' hidden layers."""
    critic_learning_rate: float = 1e-3
    """Learning rate of the critics."""
    temperature_learning_rate: float = 1e-3
    """Learning rate of log alpha."""
    initial_temperature: float = 0.2
    """alpha at the start."""
    adam_betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of Adam's two moments."""
    policy_delay: int = 3
    """Gradient steps of the critics per gradient step of the actor."""
    batch_size: int = 512
    """Samples per gradient step."""
    actor_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers of velocity and noise networks. Paper: gated 128, decoded 64, mlp 256-256."""

    def __post_init__(self):
        super().__post_init__()
        require(self.flow_steps >= 1, "flow_steps", self.flow_steps, "must be at least 1")
        value = self.target_step_std
        require(0.0 < value < math.inf, "target_step_std", value, "must be finite and greater than 0")
        bound = self.candidate_bound
        require(
            bound is None or 0.0 < bound < math.inf, "candidate_bound", bound, "must be finite and positive, or None"
        )
        start = self.initial_log_std
        require(start == 0.0, "initial_log_std", start, "does nothing here; the noise starts at target_step_std")
        if self.velocity != "gated":
            refuse_idle(self, f"velocity = {self.velocity!r}", "candidate_bound")
        if self.velocity != "decoded":
            refuse_idle(self, f"velocity = {self.velocity!r}", "decoder")
        if self.networks == "released":
            refuse_idle(self, "networks = 'released'", "decoder")
            require(
                self.velocity != "affine",
                "velocity",
                self.velocity,
                "the released code has mlp, gated and decoded alone",
            )
        if not self.learn_noise:
            refuse_idle(self, "learn_noise = False", "noise_depends_on")
        require(self.other_paths >= 1, "other_paths", self.other_paths, "must be at least 1")
        if self.entropy == "path":
            refuse_idle(self, "entropy = 'path'", "other_paths")
        else:
            refuse_idle(self, "entropy = 'action'", "density")
        if self.networks == "released" and self.velocity != "gated" and self.learn_noise:
            require(
                self.noise_depends_on == "path",
                "noise_depends_on",
                self.noise_depends_on,
                f"must be 'path' with networks = 'released' and velocity = {self.velocity!r}, whose noise scale is a "
                "second output; or choose --networks paper",
            )
        if self.networks == "released" and self.entropy == "action":
            raise ConfigurationError(
                "entropy = 'action': draws several paths per state, and the released networks normalise by the batch, "
                "path by path. Choose --entropy path, or --networks paper."
            )
        if self.velocity == "gated" and self.noise_depends_on == "path":
            raise ConfigurationError(
                "noise_depends_on = 'path': a gated velocity has no trunk that a second head could share. Choose "
                "'state', or --velocity mlp, affine or decoded."
            )

    @property
    def actor_has_batch_renorm(self) -> bool:
        """See `sac.Config.actor_has_batch_renorm`."""
        return self.networks == "released"

    def actor_trunk(self) -> Trunk:
        """Shape of the paper's velocity and noise networks; the released ones take its widths for the velocity."""
        return Trunk(self.actor_hidden, "silu" if self.velocity == "gated" else self.activation, layer_norm=False)

    def noise_trunk(self) -> Trunk:
        """Shape of the noise network."""
        if self.networks == "released":
            return Trunk((512, 512), "relu", layer_norm=False, initializer="lecun")
        return self.actor_trunk()

    def deviations(self) -> tuple[str, ...]:
        """In which ways these settings leave the paper's algorithm, in words; sizes and rates are not counted."""
        sigma = {"latent": "sigma, not sigma sqrt(dtau)", "velocity": "sigma dtau, not sigma sqrt(dtau)"}
        cases = (
            (not self.drift, "no drift correction"),
            (self.noise_enters != "diffusion", f"noise of {sigma.get(self.noise_enters)}"),
            (not self.learn_noise, "constant noise"),
            (self.noise_depends_on == "path", "noise scale from the velocity's trunk"),
            (self.density == "noise-only", "density without the scale of the noise"),
            (self.squash_log_det == "epsilon", "log det of tanh with an epsilon"),
            (self.velocity == "gated" and self.candidate_bound is None, "linear candidate"),
            (self.decoder == "post-norm", "post-norm decoder"),
            (self.networks == "released", "released networks, with BatchRenorm"),
            (self.entropy == "action", "entropy of the action, not of its path"),
        )
        return tuple(words for active, words in cases if active)


def reference_code(velocity: VelocityName = "gated", **changes: Any) -> Config:
    """The settings of the released from-scratch scripts, one per velocity. For comparison only.

    Reproduced: no drift; where the noise enters and what its scale depends on; the missing term in Flow-T's density;
    the squash's epsilon; Flow-G's linear candidate; sizes; H = 0 literally; a noise scale that starts around exp(-1.5);
    50,000 steps of warm-up; networks, with BatchRenorm on the flow's inputs (Flow-T: after each residual sum too), and
    the law of their initial weights.
    """
    start = math.exp(-1.5)
    own = {
        "mlp": {"noise_enters": "latent", "noise_depends_on": "path", "actor_hidden": (512, 512)},
        "gated": {"noise_enters": "latent", "candidate_bound": None, "actor_hidden": (512,)},
        "decoded": {
            "noise_enters": "velocity",
            "noise_depends_on": "path",
            "density": "noise-only",
            "actor_hidden": (96,),
            "target_step_std": start / 4,
        },
    }
    shared = {
        "networks": "released",
        "drift": False,
        "squash_log_det": "epsilon",
        "target_entropy": 0.0,
        "target_step_std": start,
        "warmup_steps": 50_000,
    }
    return Config(**{"velocity": velocity, **shared, **own[velocity], **changes})


PRESETS: dict[str, Callable[..., Config]] = {
    f"reference-code-{velocity}": functools.partial(reference_code, velocity)
    for velocity in ("mlp", "gated", "decoded")
}
"""Named settings. Each takes changes as keyword arguments."""


class Learner(sac.Learner):
    """SAC with a noise-augmented flow: see the module's equations."""

    name: ClassVar[str] = "sac-flow"

    def __init__(self, config: Config, world: World, planned_updates: int):
        d = world.action_size
        attainable = path_entropy_target(d, config.flow_steps, config.target_step_std)
        target = attainable if config.target_entropy is None else config.target_entropy
        fixed = config.entropy == "path" and not config.learn_noise
        if config.learn_temperature and fixed and target >= attainable:
            default = " (the default)" if config.target_entropy is None else ""
            raise ConfigurationError(
                f"target_entropy = {target:.4g}{default}: with constant noise (learn_noise = False) the path's entropy "
                f"stays below {attainable:.4g} nats, whatever is learned, so the temperature would grow without bound. "
                "Pass --learn-noise, --no-learn-temperature, or a smaller --target-entropy."
            )
        super().__init__(config, world, planned_updates)
        policy = jax.eval_shape(lambda key: self.make_policy(key, world.action_size), jax.random.key(0))
        most = math.inf
        if isinstance(policy, NoisyFlow):
            most = path_entropy_target(d, config.flow_steps, policy.largest_step_std)
        if config.learn_temperature and self.entropy_target >= most:
            raise ConfigurationError(
                f"target_entropy = {self.entropy_target:.4g}: paths of {config.flow_steps} steps have less than "
                f"{most:.4g} nats, because sigma is bounded, so the temperature would grow without bound. Choose a "
                "smaller --target-entropy."
            )
        words = config.deviations()
        if words:
            self.notices = (f"sac-flow leaves the paper: {'; '.join(words)}.",)

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def regulates_actions(self) -> bool:
        """See `sac.Learner.regulates_actions`."""
        return self.config.entropy == "action"

    def make_policy(self, key: Key, feature_size: int) -> Policy:
        """The policy: a flow with noise at every step."""
        config, d = self.config, self.world.action_size
        key_field, key_noise = jax.random.split(key)
        noise_head = config.learn_noise and config.noise_depends_on == "path"
        shape = {"heads": 2 if noise_head else 1, "candidate_bound": config.candidate_bound}
        if config.networks == "paper":
            trunk = config.actor_trunk()
            field = make_velocity(key_field, config.velocity, feature_size, d, trunk, decoder=config.decoder, **shape)
        else:
            shape |= {"flow_steps": config.flow_steps, "renorm_warmup": config.renorm_warmup}
            field = make_released_velocity(key_field, config.velocity, feature_size, d, config.actor_hidden, **shape)
        flow = NoisyFlow(
            key_noise,
            field,
            feature_size,
            d,
            config.noise_trunk(),
            flow_steps=config.flow_steps,
            drift=config.drift,
            step_std=config.target_step_std,
            learn_noise=config.learn_noise,
            noise_enters=config.noise_enters,
            noise_head=noise_head,
            exact_density=config.density == "exact",
            exact_squash=config.squash_log_det == "exact",
        )
        return flow if config.entropy == "path" else MarginalFlow(flow, config.other_paths)

    @property
    def entropy_target(self) -> float:
        """H, in nats: of the path before squashing, at ``target_step_std``; of the action, SAC's."""
        config = self.config
        if config.target_entropy is not None or config.entropy == "action":
            return super().entropy_target
        return path_entropy_target(self.world.action_size, config.flow_steps, config.target_step_std)
