# pyright: reportMissingImports=false
"""From a policy that Penstock trained to an actor of rsl_rl: the configuration that fits, and the weights.

agent = penstock.load("runs/nfpo").agent().agent
train_cfg["actor"] = actor_config(agent)
runner = OnPolicyRunner(env, train_cfg)
load_weights(runner.alg.actor, agent)
"""

from typing import Any

import numpy as np
import torch
from rsl_rl.models import MLPModel
from torch import nn

from penstock._errors import ConfigurationError
from penstock.networks.encoders import VectorEncoder
from penstock.networks.normalizer import EPSILON
from penstock.policies import Agent, CouplingFlow
from penstock.rsl_rl.distribution import CouplingFlowDistribution
from penstock.rsl_rl.flow import ACTIVATIONS

NAMES = {"silu": "swish"}
"""Activations whose name in rsl_rl differs."""


def actor_config(source: Agent | CouplingFlow) -> dict[str, Any]:
    """The part ``actor`` of rsl_rl's configuration for a model that can compute what the policy computes.

    Actions are squashed as the policy's are: by tanh they lie in (-1, 1), and the environment is to scale them. Where
    the policy clips, they are the latents themselves, and the environment is to clip them to [-1, 1] as well.

    Args:
        source: an agent, or its policy alone.

    Raises:
        ConfigurationError: no ``MLPModel`` computes it.
    """
    policy = _policy(source)
    widths = [layer.linear.out_features for layer in policy.context]
    activation = policy.context[0].activation
    first = policy.couplings[0]
    settings: dict[str, Any] = {
        "context_size": widths[-1],
        "activation": activation,
        "coupling_layers": len(policy.couplings),
        "scale_bound": policy.scale_bound,
        "masks": policy.masks,
        "coupling_hidden": tuple(layer.linear.out_features for layer in first.layers),
        "base_std": None if policy.log_std is None else 1.0,  # the weights say where it is
        "squash": policy.squash == "tanh",
    }
    if policy.scale_bound != "none":
        settings["bound"] = policy.bound
    return {
        "class_name": "MLPModel",
        "hidden_dims": widths[:-1],
        "activation": NAMES.get(activation, activation),
        "obs_normalization": isinstance(source, Agent) and source.normalizer.enabled,
        "distribution_cfg": {"class_name": "penstock.rsl_rl:CouplingFlowDistribution", **settings},
    }


def load_weights(model: MLPModel, source: Agent | CouplingFlow) -> None:
    """Fills an actor of rsl_rl with a policy of Penstock: same density, same draws, same action without noise.

    The statistics of observations come along with an agent. rsl_rl adds 0.01 to a standard deviation and Penstock 1e-5
    to a variance; the actor agrees with Penstock until rsl_rl updates them, and nearly so from then on.

    Args:
        model: built from `actor_config`, on any device and of any precision.
        source: an agent, or its policy alone, which leaves the model's statistics of observations as they are.

    Raises:
        ConfigurationError: the model is not of the policy's shape or kind; its weights are then as before.
    """
    policy = _policy(source)
    _require_same_kind(model, source)
    values = _paired(model, policy)
    for ours, theirs in values:
        if tuple(ours.shape) != theirs.shape:
            raise ConfigurationError(
                f"model: it has weights of the shape {tuple(ours.shape)} where the policy's are {theirs.shape}. Its "
                "observations or its actions are others than the policy was trained with."
            )
    with torch.no_grad():
        for ours, theirs in values:
            ours.copy_(torch.from_numpy(theirs))
    if isinstance(source, Agent) and source.normalizer.enabled:
        _load_statistics(model.obs_normalizer, source.normalizer)


def _paired(model, policy) -> list[tuple[Any, np.ndarray]]:
    """Every weight of the model, and the policy's values for it."""
    pairs = list(zip(_linear(model.mlp), [layer.linear for layer in policy.context], strict=True))
    for ours, theirs in zip(model.distribution.flow.couplings, policy.couplings, strict=True):
        pairs += zip(_linear(ours.network), [*(layer.linear for layer in theirs.layers), theirs.output], strict=True)
    values = [(a.weight, np.array(b.weight)) for a, b in pairs] + [(a.bias, np.array(b.bias)) for a, b in pairs]
    if policy.log_std is not None:
        values.append((model.distribution.flow.log_std, np.array(policy.log_std)))
    return values


def _linear(modules):
    return [module for module in modules if isinstance(module, nn.Linear)]


def _load_statistics(ours, theirs):
    variance = np.array(theirs.variance)
    with torch.no_grad():
        ours._mean.copy_(torch.from_numpy(np.array(theirs.mean))[None])
        ours._var.copy_(torch.from_numpy(variance)[None])
        ours._std.copy_(torch.from_numpy(np.sqrt(variance + EPSILON) - ours.eps)[None])  # it divides by std + eps
        ours.count.fill_(int(theirs.count))


def _policy(source: Agent | CouplingFlow) -> CouplingFlow:
    """The policy, if some ``MLPModel`` computes it."""
    policy = source.actor.policy if isinstance(source, Agent) else source
    if not isinstance(policy, CouplingFlow):
        raise ConfigurationError(
            f"This policy cannot move to rsl_rl: it is a {type(policy).__name__}, and CouplingFlowDistribution is a "
            "CouplingFlow. Train with --policy coupling, which nfpo has by itself."
        )
    wrong = ""
    if isinstance(source, Agent) and not isinstance(source.actor.encoder, VectorEncoder):
        wrong = "it observes more than a vector, which an MLPModel does not"
    elif isinstance(source, Agent) and source.chunk_length != 1:
        wrong = f"it plans {source.chunk_length} actions at a time, and rsl_rl acts step by step"
    elif isinstance(source, Agent) and source.actor.recurrence is not None:
        wrong = "it has a recurrent cell, and an MLPModel has none"
    elif len(policy.context) < 2:
        wrong = "rsl_rl's MLP has a hidden layer before its last layer: actor_hidden needs two widths or more"
    elif any(layer.norm is not None for layer in policy.context):
        wrong = "its layers have LayerNorm, which rsl_rl's MLP has not; those of nfpo and ppo have none"
    if wrong:
        raise ConfigurationError(f"This policy cannot move to rsl_rl: {wrong}.")
    return policy


def _require_same_kind(model, source):
    """Refuses a model that computes another function whatever its weights."""
    if not isinstance(model.distribution, CouplingFlowDistribution):
        raise ConfigurationError(
            f"model: its distribution is {type(model.distribution).__name__}. Build it from actor_config(...)."
        )
    wanted = actor_config(source)
    theirs = {name: value for name, value in wanted["distribution_cfg"].items() if name != "class_name"}
    ours = dict(model.distribution.settings)
    for settings in (ours, theirs):  # where it starts is of no interest
        settings["base_std"] = "fixed at 1" if settings["base_std"] is None else "learned"
    pairs = [(f"distribution_cfg.{name}", ours[name], value) for name, value in theirs.items()]
    widths = [module.out_features for module in _linear(model.mlp)]
    pairs.append(("hidden_dims", widths[:-1], wanted["hidden_dims"]))
    kind = ACTIVATIONS[theirs["activation"]].__name__
    pairs.append(("activation", type(model.mlp[1]).__name__, kind))
    if isinstance(source, Agent):
        pairs.append(("obs_normalization", model.obs_normalization, wanted["obs_normalization"]))
    for field, have, want in pairs:
        if have != want:
            raise ConfigurationError(
                f"{field} = {have!r}: the policy has {want!r}. Build the model from actor_config(...)."
            )
