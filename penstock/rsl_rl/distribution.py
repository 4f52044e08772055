# pyright: reportMissingImports=false
"""The bounded coupling flow as a distribution of rsl_rl 5, in the place of its Gaussian (NFPO, arXiv 2603.11470)."""

from __future__ import annotations  # the site of the documentation reads them without torch

import contextlib
import copy
import math
from collections.abc import Sequence
from typing import no_type_check

import torch
from jaxtyping import Float
from rsl_rl.modules.distribution import Distribution
from torch import Tensor, nn

from penstock._coupling import require_bound, require_flow, usual_hidden
from penstock._errors import PenstockError, require
from penstock.rsl_rl.flow import CouplingFlow

LARGEST_ACTION = 1.0 - 2.0**-24
"""The largest float32 below 1: a squashed action stays inside its box, where its density is finite."""

STATES_OF_STD, DRAWS_OF_STD = 64, 32
"""On how many states, with how many draws each, the spread of the actions is estimated."""

DEFAULT_BOUND = 0.25


class CouplingFlowDistribution(Distribution):
    """Carries normal noise through K coupling layers whose log-scales are bounded; the density is exact.

    rsl_rl's model builds it from ``distribution_cfg`` and feeds it the output of its MLP, of `input_dim` entries, which
    conditions the flow. The flow's weights lie in this module, where optimiser and checkpoint of rsl_rl find them. It
    starts as the Gaussian ``N(0, base_std^2)`` in every state. See `penstock.policies.CouplingFlow` for the equations,
    and for what the bound does not bound.

    Three things that rsl_rl asks of every distribution have no closed form here: `mean` and `std` are stand-ins,
    `entropy` and `kl_divergence` are unbiased estimates.

    Attributes:
        flow: the couplings and the base noise.
        settings: the keyword arguments that made it.
    """

    _noises_of_std: Tensor

    def __init__(
        self,
        output_dim: int,
        *,
        context_size: int = 64,
        activation: str = "elu",
        coupling_layers: int = 4,
        bound: float = DEFAULT_BOUND,
        scale_bound: str = "tanh",
        masks: str = "halves",
        coupling_hidden: Sequence[int] | None = None,
        base_std: float | None = 1.0,
        squash: bool = False,
    ):
        """Builds the flow; its hidden layers start with torch's random weights.

        Args:
            output_dim: d, entries of an action. With one alone there is nothing to couple: the flow is a Gaussian whose
                scale and shift depend on the state.
            context_size: entries of the context, which the MLP computes once for all layers.
            activation: of the context and of the couplings' hidden layers: silu, elu, relu, gelu, mish, tanh or
                identity.
            coupling_layers: K.
            bound: l, the largest log-scale of a layer.
            scale_bound: ``tanh``: ``l tanh(u)`` (NFPO); ``scaled-tanh``: ``l tanh(u / l)``; ``clip``; ``none``, which
                is known to explode.
            masks: which entries a layer keeps: ``halves`` or ``alternating``.
            coupling_hidden: widths of the hidden layers of each coupling; None for one, half as wide as the context.
            base_std: standard deviation of the base noise at the start, learned within [0.05, 2]; None keeps it at 1.
            squash: actions are ``tanh`` of the latent, in (-1, 1). Without it they are the latent itself, unbounded, as
                rsl_rl's Gaussian has them.

        Raises:
            ConfigurationError: a setting is out of range, or does nothing.
        """
        super().__init__(output_dim)
        require_flow(coupling_layers, scale_bound, masks, base_std)
        require_bound(bound, scale_bound, DEFAULT_BOUND)
        require(context_size >= 1, "context_size", context_size, "must be at least 1")
        widths = usual_hidden(context_size) if coupling_hidden is None else tuple(coupling_hidden)
        require(all(width >= 1 for width in widths), "coupling_hidden", widths, "must hold widths of at least 1")
        self.settings = {
            "context_size": context_size,
            "activation": activation,
            "coupling_layers": coupling_layers,
            "bound": float(bound),
            "scale_bound": scale_bound,
            "masks": masks,
            "coupling_hidden": widths,
            "base_std": base_std,
            "squash": squash,
        }
        self.flow = CouplingFlow(
            output_dim,
            context_size,
            layers=coupling_layers,
            bound=float(bound),
            scale_bound=scale_bound,
            masks=masks,
            hidden=widths,
            activation=activation,
            base_std=base_std,
        )
        self.squash = squash
        fixed = torch.randn(DRAWS_OF_STD, output_dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("_noises_of_std", fixed, persistent=False)
        self._condition: Tensor | None = None
        self._log_prob: Tensor | None = None

    # ------------------------------------------------------------------ what rsl_rl calls while it trains

    @property
    def input_dim(self) -> int:
        """Entries that the MLP is to emit: the context's, before its activation."""
        return self.settings["context_size"]

    def update(self, mlp_output: Float[Tensor, "*batch context"]) -> None:
        """Conditions the flow on these states. What was known of earlier ones is forgotten."""
        with _full_precision(mlp_output):
            self._condition = self.flow.condition(mlp_output.to(self._noises_of_std.dtype))
        self._log_prob = None

    def sample(self) -> Float[Tensor, "*batch {self.output_dim}"]:
        """One action per state, without gradients.

        Raises:
            PenstockError: an action is not finite.
        """
        condition = self._conditioned()
        noise = self._noise(condition)
        with torch.no_grad(), _full_precision(condition):
            latent, _ = self.flow.push(condition, noise)
            self._require_finite(latent)  # pyright: ignore  # torch says that what it disabled is a decorator
            return self._action(latent)

    def log_prob(self, outputs: Float[Tensor, "*batch {self.output_dim}"]) -> Float[Tensor, "*batch"]:
        """Exact log-density of actions, in nats; `params` is what it said last.

        A gradient that comes back for a sample and is not finite is left out: PPO's ratio overflows where the density
        of an action has grown by more than ``e^88``, and one such sample would turn all weights into NaN.
        """
        condition = self._conditioned()
        with _full_precision(condition):
            outputs = outputs.to(condition.dtype)
            latent = torch.atanh(outputs.clamp(-LARGEST_ACTION, LARGEST_ACTION)) if self.squash else outputs
            noise, log_det = self.flow.pull(condition, latent)
            log_prob = _standard_normal(noise) - log_det
            if self.squash:
                log_prob = log_prob - _log_tanh_derivative(latent).sum(dim=-1)
        if log_prob.requires_grad:
            log_prob.register_hook(lambda gradient: torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0))
        self._log_prob = log_prob.detach()
        return log_prob

    @property
    def entropy(self) -> Float[Tensor, "*batch"]:
        """Unbiased estimate of the entropy from one fresh draw per state, in nats, with gradients.

        ``E[-log pi] = H[N(0, I)] + E[log det(da / d noise)]``: the first part is known, the second is drawn. The
        log-density that `params` keeps stays as it is.
        """
        condition = self._conditioned()
        with _full_precision(condition):
            latent, log_det = self.flow.push(condition, self._noise(condition))
            if self.squash:
                log_det = log_det + _log_tanh_derivative(latent).sum(dim=-1)
            return 0.5 * self.output_dim * (1.0 + math.log(2.0 * math.pi)) + log_det

    @property
    def params(self) -> tuple[Tensor, ...]:
        """The log-densities ``(...)`` that `log_prob` returned last: what `kl_divergence` needs, and no parameters.

        rsl_rl asks for the log-density of the actions before it asks for parameters, when it acts and when it learns.

        Raises:
            PenstockError: no log-density was asked for since the last `update`.
        """
        if self._log_prob is None:
            raise PenstockError(
                "params: what stands for the parameters of a flow is the log-density of the actions. Call log_prob "
                "with these states' actions first, as rsl_rl's PPO does."
            )
        return (self._log_prob,)

    def kl_divergence(self, old_params: tuple[Tensor, ...], new_params: tuple[Tensor, ...]) -> Float[Tensor, "*batch"]:
        """``exp(delta) - 1 - delta`` per sample, ``delta = log pi_new - log pi_old`` of the same action.

        Where the actions were drawn from the old policy its mean is an unbiased estimate of KL(old || new), and no
        sample is negative.

        Returns:
            The estimates; NaN for all where a single delta is not finite: rsl_rl then leaves its learning rate alone.
        """
        (old,), (new,) = old_params, new_params
        delta = new - old
        return torch.where(torch.isfinite(delta).all(), torch.expm1(delta) - delta, torch.nan)

    # ------------------------------------------------------------------ without noise, and for the log

    def deterministic_output(self, mlp_output: Float[Tensor, "*batch context"]) -> Tensor:
        """The action of zero noise, ``(..., d)``; of a flow it is neither mean nor mode in general."""
        with _full_precision(mlp_output):
            return self._action(self.flow.of_zero_noise(self.flow.condition(mlp_output.to(self._noises_of_std.dtype))))

    def as_deterministic_output_module(self) -> nn.Module:
        """The same map as a module of its own, with a copy of the weights, for TorchScript and ONNX."""
        return _DeterministicOutput(copy.deepcopy(self.flow), self.squash)

    @property
    def mean(self) -> Float[Tensor, "*batch {self.output_dim}"]:
        """A stand-in: the action of zero noise."""
        with torch.no_grad(), _full_precision(self._conditioned()):
            return self._action(self.flow.of_zero_noise(self._conditioned()))

    @property
    def std(self) -> Float[Tensor, "*batch {self.output_dim}"]:
        """A stand-in: the spread of the actions per entry, one estimate for all states.

        Root mean square, over at most 64 of the states, of the standard deviation of 32 draws with fixed noises. rsl_rl
        logs its mean as ``Policy/mean_std``.
        """
        condition = self._conditioned()
        with torch.no_grad(), _full_precision(condition):
            states = condition.reshape(-1, condition.shape[-1])
            states = states[:: max(1, -(-len(states) // STATES_OF_STD))]
            some = states[:, None].expand(-1, DRAWS_OF_STD, -1)
            latent, _ = self.flow.push(some, self._noises_of_std.expand(len(states), -1, -1))
            spread = self._action(latent).var(dim=1).mean(dim=0).sqrt()
            return spread.expand(*condition.shape[:-1], -1)

    # ------------------------------------------------------------------ parts

    def _conditioned(self):
        if self._condition is None:
            raise PenstockError("The flow is not conditioned on any state yet: call update with an output of the MLP.")
        return self._condition

    def _noise(self, condition):
        shape = (*condition.shape[:-1], self.output_dim)
        return torch.randn(shape, dtype=condition.dtype, device=condition.device)

    def _action(self, latent):
        return torch.tanh(latent).clamp(-LARGEST_ACTION, LARGEST_ACTION) if self.squash else latent

    @torch.compiler.disable
    def _require_finite(self, latent):
        if bool(torch.isfinite(latent).all()):
            return
        if not all(bool(torch.isfinite(weight).all()) for weight in self.parameters()):
            cause = "the flow's weights hold NaN or infinity"
        elif not bool(torch.isfinite(self._conditioned()).all()):
            cause = "what the MLP says of the observations is not finite: an observation, or a weight of the MLP"
        else:
            cause = "the flow overflows"
        remedy = "Lower the learning rate or max_grad_norm, and begin again from a checkpoint."
        if self.settings["scale_bound"] == "none":
            remedy = "scale_bound = none is known to explode: take tanh, and begin again."
        raise PenstockError(
            f"Actions of the coupling flow are not finite, because {cause}: training has diverged. {remedy}"
        )


class _DeterministicOutput(nn.Module):
    """From the MLP's output to the action of zero noise."""

    def __init__(self, flow: CouplingFlow, squash: bool):
        super().__init__()
        self.flow, self.squash = flow, squash
        self.largest = LARGEST_ACTION

    @no_type_check
    def forward(self, mlp_output: torch.Tensor) -> torch.Tensor:
        """The action ``(..., d)``."""
        latent = self.flow.of_zero_noise(self.flow.condition(mlp_output))
        if self.squash:
            latent = torch.clamp(torch.tanh(latent), -self.largest, self.largest)
        return latent


def _full_precision(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Densities are differences of large numbers: they are computed as the weights are, also where rsl_rl mixes."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _standard_normal(noise):
    return (-0.5 * noise.square() - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)


def _log_tanh_derivative(x):
    """``log(1 - tanh(x)^2)``, exact also where tanh saturates."""
    return 2.0 * (math.log(2.0) - x - nn.functional.softplus(-2.0 * x))
