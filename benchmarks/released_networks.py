"""Are the networks of SAC Flow's ``reference_code`` those of the released scripts? Compared number by number.

    python benchmarks/released_networks.py --sac-flow CHECKOUT

The checkout (Elessar123/SAC-FLOW at 3df8b9d) is the user's own, and its actors run as they are; it needs torch,
tensorboard and flax. Each actor is initialised by its own code, its weights are copied into Penstock's policy, and both
carry the same states and the same noise to actions: once as in training, with the statistics of the batch at every flow
step, and once as in play, with the running statistics which that training call left behind. Printed are the largest
differences. The log-density contains log(1 - tanh^2 + 1e-6) in float32, which is noise where tanh saturates, so it is
compared where all |x| < 5.
"""

import argparse
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from released_sac_flow import ReleasedFlow, reference_code

from penstock.algorithms import sac_flow
from penstock.observation import ObservationSpec

FEATURES, ACTIONS, BATCH, STEPS = 17, 6, 64, 4
ACTORS = {
    "mlp": ("Naive_sac_flow_jax.py", "Actor", {}),
    "gated": ("SAC_flow_gru_jax.py", "Actor", {"hidden_dim": 512}),
    "decoded": ("SAC_flow_transformer_jax.py", "TransformerFlowActor", {"d_model": 96}),
}


@dataclass
class ShapesWorld:
    """What a learner asks of a world before it runs: shapes."""

    observation_spec: ObservationSpec
    action_size: int
    name: str = "shapes"
    num_envs: int = 1


def official_actor(checkout: Path, velocity: str):
    """The actor that a script defines."""
    script, name, sizes = ACTORS[velocity]
    text = (checkout / "from_scratch_code" / script).read_text().split('if __name__ == "__main__"')[0]
    sys.path.insert(0, str(checkout))
    module = types.ModuleType(script)
    sys.modules[script] = module  # its dataclasses look their module up
    exec(compile(text, script, "exec"), module.__dict__)  # the user's own checkout
    bounds = {"action_scale": jnp.ones(ACTIONS), "action_bias": jnp.zeros(ACTIONS)}
    return getattr(module, name)(action_dim=ACTIONS, obs_dim=FEATURES, **bounds, **sizes)


def official_noise(key) -> jax.Array:
    """The numbers that an official actor draws with this key, ``(BATCH, STEPS + 1, ACTIONS)``."""
    draws = []
    for _ in range(STEPS + 1):
        key, now = jax.random.split(key)
        draws.append(jax.random.normal(now, (BATCH, ACTIONS)))
    return jnp.stack(draws, axis=1)


def ours(velocity: str) -> ReleasedFlow:
    """The preset's policy."""
    world = ShapesWorld(ObservationSpec(vector=FEATURES), ACTIONS)
    return sac_flow.Learner(reference_code(velocity), world, 10**8).init(jax.random.key(0)).actor.policy


def linear(layer, parameters):
    """A layer with a Flax layer's weights."""
    new = jnp.asarray(parameters["kernel"]).T, jnp.asarray(parameters["bias"])
    return eqx.tree_at(lambda x: (x.weight, x.bias), layer, new)


def mlp(network, parameters: list):
    """An MLP with the weights of a list of Flax layers."""
    hidden = [
        eqx.tree_at(lambda x: x.linear, layer, linear(layer.linear, p))
        for layer, p in zip(network.layers, parameters[:-1], strict=True)
    ]
    return eqx.tree_at(lambda x: (x.layers, x.output), network, (tuple(hidden), linear(network.output, parameters[-1])))


def heads(first, second):
    """Two Flax layers side by side."""
    return {name: jnp.concatenate([first[name], second[name]], axis=-1) for name in ("kernel", "bias")}


def in_order(parameters, prefix: str = "") -> list:
    """The layers of a Flax module that begin with a prefix, in the order of their numbers."""
    names = [name for name in parameters if name.startswith(prefix)]
    return [parameters[name] for name in sorted(names, key=lambda name: int(name.split("_")[-1]))]


def with_weights(policy: ReleasedFlow, velocity: str, p) -> ReleasedFlow:
    """The policy with an official actor's weights."""
    field = policy.field
    if velocity == "mlp":
        network = mlp(field.network, [p["fc1"], p["fc2"], heads(p["fc_mean"], p["fc_logstd"])])
        return eqx.tree_at(lambda x: x.field.network, policy, network)
    if velocity == "gated":
        parts = (
            mlp(field.gate, in_order(p["gate_net"])),
            mlp(field.candidate, in_order(p["candidate_net"])),
            mlp(field.time_encoder, in_order(p["time_mlp"])),
            mlp(policy.noise_network, in_order(p["fc_logstd"])),
        )
        where = lambda x: (x.field.gate, x.field.candidate, x.field.time_encoder, x.noise_network)  # noqa: E731
        return eqx.tree_at(where, policy, parts)
    blocks = []
    for index, block in enumerate(field.blocks):
        layer = p[f"layer_{index}"]
        new = [layer["self_attn"]["v_proj"], layer["self_attn"]["out_proj"]]
        new += [layer["cross_attn"]["v_proj"], layer["cross_attn"]["out_proj"], *in_order(layer, "Dense")]
        names = ("self_value", "self_out", "value", "out", "widen", "narrow")
        layers = [linear(getattr(block, name), q) for name, q in zip(names, new, strict=True)]
        blocks.append(eqx.tree_at(lambda x: [getattr(x, name) for name in names], block, layers))  # noqa: B023
    encoders = in_order(p, "Dense")
    parts = (
        tuple(blocks),
        mlp(field.state_encoder, encoders[:2]),
        mlp(field.time_encoder, encoders[2:]),
        linear(field.latent_encoder, p["action_proj"]),
        linear(field.output, heads(p["velocity_mean_head"], p["velocity_log_std_head"])),
    )
    where = lambda x: (x.blocks, x.state_encoder, x.time_encoder, x.latent_encoder, x.output)  # noqa: E731
    return eqx.tree_at(lambda x: x.field, policy, eqx.tree_at(where, field, parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sac-flow", type=Path, required=True, help="checkout of Elessar123/SAC-FLOW")
    arguments = parser.parse_args()
    key = jax.random.PRNGKey(1)
    states, noise = 1.0 + 2.0 * jax.random.normal(jax.random.key(2), (BATCH, FEATURES)), official_noise(key)
    for velocity in ACTORS:
        actor = official_actor(arguments.sac_flow, velocity)
        variables = actor.init({"params": jax.random.PRNGKey(3)}, states, key, training=True)
        trained, after = actor.apply(variables, states, key, training=True, mutable=["batch_stats"])
        played = actor.apply({"params": variables["params"], **after}, states, key, training=False)

        policy = with_weights(ours(velocity), velocity, variables["params"])
        train = jax.vmap(
            lambda s, n, policy=policy: policy._train_rollout(s, n[0], n[1:], "batch"),
            axis_name="batch",
            out_axes=(0, 0, None),
        )
        sample, log_prob, seen = train(states, noise)
        path = jax.vmap(lambda s, n, seen=seen: seen._rollout(s, n[0], n[1:]))(states, noise)
        for name, latent, density, (their_action, their_density) in (
            ("training", sample.latent, log_prob, trained),
            ("play", path.latents[:, -1], path.log_prob, played),
        ):
            inside = jnp.abs(latent).max(axis=1) < 5.0
            difference = jnp.abs(jnp.tanh(latent) - their_action).max()
            print(
                f"{velocity:8} {name:9} largest difference: action {difference:.1e}, "
                f"log-density {jnp.abs(density - their_density[:, 0])[inside].max():.1e} "
                f"({int(inside.sum())} of {BATCH} states are inside)"
            )


if __name__ == "__main__":
    main()
