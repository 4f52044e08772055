# pyright: reportMissingImports=false
"""The bounded coupling flow in torch: the same function of the same weights as `penstock.policies.CouplingFlow`.

That class has the equations. Here tensors have any leading axes, and what an exported policy runs is written in the
part of Python that TorchScript reads: plain types, shapes in words.
"""

import itertools
import math
from collections.abc import Sequence
from typing import no_type_check

import numpy as np
import torch
from torch import nn

from penstock._coupling import BASE_STD_BOUNDS, kept_entries
from penstock._errors import ConfigurationError

ACTIVATIONS = {
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
"""The names of `penstock.networks.Trunk`, and the same functions."""


class Coupling(nn.Module):
    """One layer: the log-scale and the shift of the entries that it changes, from those that it keeps and the context.

    Its last linear layer starts at zero, so that the layer starts as the identity.

    Attributes:
        network: hidden layers and a linear layer, ``(..., d + context) -> (..., 2 d)``.
        kept: which of the d entries are kept; follows from the settings, hence in no checkpoint.
    """

    kept: torch.Tensor

    def __init__(
        self,
        kept: np.ndarray,
        context_size: int,
        hidden: Sequence[int],
        activation: str,
        bound: float,
        scale_bound: str,
    ):
        super().__init__()
        widths = (len(kept) + context_size, *hidden)
        layers = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
        output = nn.Linear(widths[-1], 2 * len(kept))
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self.network = nn.Sequential(*layers, output)
        self.register_buffer("kept", torch.from_numpy(kept), persistent=False)
        self.bound, self.scale_bound = bound, scale_bound

    @no_type_check
    def forward(self, x: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-scale and shift, each ``(..., d)`` and 0 where the layer keeps.

        Args:
            x: ``(..., d)``, of which only the kept entries are read.
            context: ``(..., context)``.
        """
        zero = torch.zeros_like(x)
        output = self.network(torch.cat([torch.where(self.kept, x, zero), context], dim=-1))
        u, shift = torch.chunk(output, 2, dim=-1)
        if self.scale_bound == "tanh":
            u = self.bound * torch.tanh(u)
        elif self.scale_bound == "scaled-tanh":
            u = self.bound * torch.tanh(u / self.bound)
        elif self.scale_bound == "clip":
            u = torch.clamp(u, -self.bound, self.bound)
        return torch.where(self.kept, zero, u), torch.where(self.kept, zero, shift)


class CouplingFlow(nn.Module):
    """K couplings between normal noise and the latent, each conditioned on a context.

    Attributes:
        couplings: the K layers.
        log_std: log of the base noise's standard deviation, ``(d,)``, learned; None for 1.
    """

    def __init__(
        self,
        size: int,
        context_size: int,
        *,
        layers: int,
        bound: float,
        scale_bound: str,
        masks: str,
        hidden: Sequence[int],
        activation: str,
        base_std: float | None,
    ):
        """Draws the weights of the hidden layers as torch does.

        Args:
            size: d, entries of the latent.
            context_size: entries of the context.
            layers: K.
            bound: l.
            scale_bound: how log-scales are bounded.
            masks: which entries are kept.
            hidden: widths of the couplings' hidden layers.
            activation: of the context and of the couplings' hidden layers.
            base_std: standard deviation of the base noise at the start; None for 1, not learned.
        """
        super().__init__()
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ConfigurationError(f"activation = {activation!r}: unknown. Known: {known}; rsl_rl's swish is silu.")
        self.size = size
        self.activation = ACTIVATIONS[activation]()
        self.couplings = nn.ModuleList(
            Coupling(kept_entries(layer, size, masks), context_size, hidden, activation, bound, scale_bound)
            for layer in range(layers)
        )
        self.log_std = None if base_std is None else nn.Parameter(torch.full((size,), math.log(base_std)))
        self.lowest, self.highest = (math.log(bound) for bound in BASE_STD_BOUNDS)

    @no_type_check
    def condition(self, mlp_output: torch.Tensor) -> torch.Tensor:
        """The context ``(..., context)`` from the output of a linear layer: its activation."""
        return self.activation(mlp_output)

    @no_type_check
    def push(self, condition: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From standard normal noise ``(..., d)`` to the latent ``(..., d)``, and the log-determinant ``(...)``."""
        log_std = self.base_log_std(noise)
        x = noise * torch.exp(log_std)
        log_det = log_std.sum(dim=-1)
        for coupling in self.couplings:
            scale, shift = coupling(x, condition)
            x = x * torch.exp(scale) + shift
            log_det = log_det + scale.sum(dim=-1)
        return x, log_det

    def pull(self, condition: torch.Tensor, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `push`: the noise that leads to a latent, and the same log-determinant."""
        log_std = self.base_log_std(latent)
        x, log_det = latent, log_std.sum(dim=-1)
        for coupling in reversed(self.couplings):
            scale, shift = coupling(x, condition)
            x = (x - shift) * torch.exp(-scale)
            log_det = log_det + scale.sum(dim=-1)
        return x * torch.exp(-log_std), log_det

    @no_type_check
    def of_zero_noise(self, condition: torch.Tensor) -> torch.Tensor:
        """The latent ``(..., d)`` of zero noise."""
        noise = torch.zeros_like(condition[..., :1]).repeat_interleave(self.size, dim=-1)
        return self.push(condition, noise)[0]

    @no_type_check
    def base_log_std(self, like: torch.Tensor) -> torch.Tensor:
        """Log of the base noise's standard deviation, clamped, in the shape of ``like``, ``(..., d)``."""
        log_std = self.log_std  # a local name: TorchScript forgets what it learned of an attribute
        if log_std is None:
            return torch.zeros_like(like)
        return torch.clamp(log_std, self.lowest, self.highest).expand_as(like)
