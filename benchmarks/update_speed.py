"""CPU cost of a gradient step, beside the official codes of FlowRL and SAC Flow, and SBX's SAC and CrossQ.

    python benchmarks/update_speed.py --flowrl CHECKOUT --sac-flow CHECKOUT    # all rows; without a peer: skipped
    python benchmarks/update_speed.py --rows sac crossq                        # needs the package sbx-rl

The peers are the user's own checkouts, driven through their own update functions as peers.py tells. Needed beside
Penstock: torch (FlowRL); torch, tensorboard, flax and optax (SAC Flow); sbx-rl (SBX).

Same work on both sides: shapes, batch, networks, K, number of critics, delays, precision; replay sampling counts on
both sides. What differs: Penstock's Flow-T has no products for queries and keys whose softmax is 1 (fewer parameters,
the same functions). The rows ``-paper`` change the networks alone, at the same widths: LayerNorm or none in place of
the actor's BatchRenorm, pre-norm blocks in Flow-T, and Flow-G with time as a number and one layer for its noise.

FlowRL's official code has both precisions: bfloat16 by default where there is a GPU. The other peers run in float32
alone, so the rows ``-bfloat16`` beside them compare unequal work: they say what ``--precision bfloat16`` saves.

Penstock runs as training runs it: a compiled scan of ``BLOCK`` gradient steps, states donated. The whole process is
pinned to one core and one thread. Compilation and warm-up come first and count apart; then peer and Penstock alternate,
the peer once more at the end. Figures are CPU seconds of the process. A ratio above 1 says that Penstock is cheaper.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import peers
from jax.extend.core import ClosedJaxpr, Jaxpr
from released_flowrl import FlowRL
from released_sac_flow import ACTORS, reference_code

from penstock.algorithms import crossq, sac, sac_flow
from penstock.algorithms.learner import Clock
from penstock.data import Experience, Replay
from penstock.networks.precision import Precision
from penstock.observation import Observation, ObservationSpec
from penstock.reports.tables import markdown_table

OUTPUT = Path(__file__).parent / "results" / "update_speed.json"
BLOCK = 12
"""Gradient steps per compiled call: whole cycles of every delay (1, 2 and 3)."""
TRANSITIONS = 4_096
LARGEST_DRIFT = 0.1
"""A row whose peer ends this much faster or slower than its median is void: the machine changed. Run it again."""


@dataclasses.dataclass
class ShapesWorld:
    """What a learner asks of a world before it runs: shapes."""

    observation_spec: ObservationSpec
    action_size: int
    name: str = "shapes"
    num_envs: int = 1


class Ours:
    """Penstock's gradient steps on random data: a compiled scan of ``BLOCK`` steps."""

    def __init__(self, learner, observation_size: int):
        self.learner = learner
        config, d, n = learner.config, learner.world.action_size, TRANSITIONS
        keys = jax.random.split(jax.random.key(0), 6)

        def observations(key):
            return Observation(vector=jax.random.normal(key, (n, 1, observation_size)))

        action = jax.random.uniform(keys[1], (n, 1, d), minval=-1.0, maxval=1.0)
        never = jnp.zeros((n, 1), bool)
        ring = Experience(
            observations(keys[0]), action, jax.random.normal(keys[2], (n, 1)), never, never, observations(keys[3])
        )
        replay = Replay(ring, jnp.asarray(0, jnp.int32), jnp.asarray(n, jnp.int32))
        self.learned = jax.jit(learner.init)(keys[4])
        self.count = jnp.asarray(0, jnp.int32)
        names = ("critic", "behaviour_critic", "behaviour_value")
        critics = [getattr(self.learned, name, None) for name in names]
        self.parameters = (size(self.learned.actor), size(critics))

        def one(carry, _):
            learned, count = carry
            key_batch, key_step = jax.random.split(jax.random.fold_in(keys[5], count))
            batch = replay.sample(key_batch, config.batch_size, **learner.data.sampling)
            clock = Clock(count, count, count)
            updated = learner.update_from_batch(learned, batch, key_step, clock)
            return (updated.learned, count + 1), updated.metrics

        def block(learned, count):
            (learned, count), metrics = jax.lax.scan(one, (learned, count), None, length=BLOCK)
            return learned, count, jax.tree.map(jnp.sum, metrics)

        jaxpr = jax.make_jaxpr(one)((self.learned, self.count), None)
        self.gflop = product_flops(jaxpr, 1.0 / config.policy_delay) / 1e9
        self.block = jax.jit(block, donate_argnums=0)

    def run(self, updates: int) -> None:
        """Makes so many gradient steps, a multiple of ``BLOCK``, and waits for them."""
        for _ in range(updates // BLOCK):
            self.learned, self.count, _ = self.block(self.learned, self.count)
        jax.block_until_ready(self.learned)


def size(tree) -> int:
    """Number of entries of all arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if hasattr(leaf, "size"))


def product_flops(jaxpr: ClosedJaxpr | Jaxpr, branch_share: float) -> float:
    """Operations of all matrix products of a program, a multiply-add counted twice; a branch counts by its share."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contract, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = 1
            for axis in contract:
                inner *= left[axis]
            total += 2.0 * equation.outvars[0].aval.size * inner
        elif name == "cond":
            total += branch_share * max(product_flops(branch, branch_share) for branch in parameters["branches"])
        else:
            repeats = parameters["length"] if name == "scan" else 1
            for value in parameters.values():
                if isinstance(value, ClosedJaxpr | Jaxpr):
                    total += repeats * product_flops(value, branch_share)
    return total


def learner(algorithm, observation_size: int, action_size: int, config, precision: Precision = "float32"):
    world = ShapesWorld(ObservationSpec(vector=observation_size), action_size)
    made = algorithm(config, world, 10**8)
    made.precision = precision
    return Ours(made, observation_size)


def rows(flowrl_path: Path | None, sac_flow_path: Path | None) -> dict[str, tuple[str, Callable, Callable | None]]:
    """Per row: what is compared, how to build Penstock's side, how to build the peer."""

    def flowrl_row(what: str, observation_size: int, action_size: int, precision: Precision):
        return (
            f"FlowRL official, {what} {observation_size}/{action_size}, batch 256, {precision}",
            lambda: learner(FlowRL, observation_size, action_size, FlowRL.settings(), precision),
            flowrl_path and (lambda: peers.flowrl(flowrl_path, observation_size, action_size, precision)),
        )

    def sac_flow_row(velocity: str, script: str, networks: str = "released", precision: Precision = "float32"):
        told = f", networks {networks}" + (f", precision {precision}" if precision != "float32" else "")
        widths = ACTORS[velocity][1]
        made = {
            "released": lambda: reference_code(velocity),
            "paper": lambda: sac_flow.Config.of(velocity=velocity, actor_hidden=widths),
        }[networks]
        return (
            f"SAC Flow {velocity} official, HalfCheetah 17/6, batch 512, K 4{told}",
            lambda: learner(sac_flow.Learner, 17, 6, made(), precision),
            sac_flow_path and (lambda: peers.sac_flow(sac_flow_path, script)),
        )

    flow_t, flow_g = "SAC_flow_transformer_jax.py", "SAC_flow_gru_jax.py"
    return {
        "flowrl-dog": flowrl_row("dog", 223, 38, "float32"),
        "flowrl-cheetah": flowrl_row("cheetah", 17, 6, "float32"),
        "flowrl-dog-bfloat16": flowrl_row("dog", 223, 38, "bfloat16"),
        "flowrl-cheetah-bfloat16": flowrl_row("cheetah", 17, 6, "bfloat16"),
        "flow-t": sac_flow_row("decoded", flow_t),
        "flow-g": sac_flow_row("gated", flow_g),
        "flow-t-paper": sac_flow_row("decoded", flow_t, networks="paper"),
        "flow-g-paper": sac_flow_row("gated", flow_g, networks="paper"),
        "flow-t-bfloat16": sac_flow_row("decoded", flow_t, precision="bfloat16"),
        "flow-g-bfloat16": sac_flow_row("gated", flow_g, precision="bfloat16"),
        "sac": (
            "SBX SAC, HalfCheetah 17/6, batch 256",
            lambda: learner(sac.Learner, 17, 6, sac.Config()),
            lambda: peers.sbx("SAC"),
        ),
        "sac-bfloat16": (
            "SBX SAC, HalfCheetah 17/6, batch 256, precision bfloat16",
            lambda: learner(sac.Learner, 17, 6, sac.Config(), "bfloat16"),
            lambda: peers.sbx("SAC"),
        ),
        "crossq": (
            "SBX CrossQ, HalfCheetah 17/6, batch 256",
            lambda: learner(crossq.Learner, 17, 6, crossq.Config()),
            lambda: peers.sbx("CrossQ"),
        ),
        "crossq-bfloat16": (
            "SBX CrossQ, HalfCheetah 17/6, batch 256, precision bfloat16",
            lambda: learner(crossq.Learner, 17, 6, crossq.Config(), "bfloat16"),
            lambda: peers.sbx("CrossQ"),
        ),
    }


def cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def warm_up(side) -> float:
    """Compiles and warms up until two timings agree within 5%; returns the CPU seconds of the first call."""
    first = cpu_seconds(lambda: side.run(BLOCK))
    before = cpu_seconds(lambda: side.run(BLOCK))
    for _ in range(8):
        now = cpu_seconds(lambda: side.run(BLOCK))
        if abs(now - before) < 0.05 * before:
            break
        before = now
    return first


def compare(name: str, what: str, make_ours: Callable, make_peer: Callable, turns: int, seconds: float) -> dict:
    """Times one row: peer, ours, peer, ours ..., and the peer once more at the end."""
    peer, ours = make_peer(), make_ours()
    first = {"peer": warm_up(peer), "ours": warm_up(ours)}
    sides = {"peer": peer, "ours": ours}
    updates = {}
    for label, side in sides.items():
        blocks = max(1, round(seconds / cpu_seconds(lambda: side.run(BLOCK))))  # noqa: B023
        updates[label] = BLOCK * blocks
    times = {"peer": [], "ours": []}
    for turn in range(turns + 1):
        for label, side in sides.items():
            if turn < turns or label == "peer":
                times[label].append(cpu_seconds(lambda: side.run(updates[label])) / updates[label])  # noqa: B023
    closing = times["peer"].pop()
    ratios = [a / b for a, b in zip(times["peer"], times["ours"], strict=True)]
    ms = {label: 1e3 * statistics.median(values) for label, values in times.items()}
    return {
        "row": name,
        "what": what,
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "peer_ms_per_update": round(ms["peer"], 2),
        "ours_ms_per_update": round(ms["ours"], 2),
        "peer_drift": round(1e3 * closing / ms["peer"] - 1.0, 3),
        "void": abs(1e3 * closing / ms["peer"] - 1.0) > LARGEST_DRIFT,
        "ours_gflop_per_update": round(ours.gflop, 3),
        "ours_gflop_per_second": round(ours.gflop / ms["ours"] * 1e3, 1),
        "product_gflop_per_second": gflops_of(our_products),
        "peer_product_gflop_per_second": gflops_of(peer.products or our_products),
        "peer_parameters": list(peer.parameters),
        "ours_parameters": list(ours.parameters),
        "peer_first_call_cpu_s": round(first["peer"], 1),
        "ours_first_call_cpu_s": round(first["ours"], 1),
        "updates_per_turn": updates,
        "peer_times": times["peer"],
        "ours_times": times["ours"],
    }


def gflops_of(products: Callable[[int], object]) -> float:
    """The core's float32 speed at a product 256 x 512 x 512, of which ``products(n)`` computes n."""
    products(20)
    times = [cpu_seconds(lambda: products(200)) for _ in range(5)]
    return round(200 * 2 * 256 * 512 * 512 / min(times) / 1e9, 1)


def our_products(n: int) -> object:
    """Computes n products 256 x 512 x 512 by JAX."""
    x, w = jnp.ones((256, 512)), jnp.ones((512, 512))
    return jax.block_until_ready([_product(x, w) for _ in range(n)])


_product = jax.jit(jnp.matmul)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flowrl", type=Path, help="checkout of bytedance/FlowRL")
    parser.add_argument("--sac-flow", type=Path, help="checkout of Elessar123/SAC-FLOW")
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds per turn and side")
    arguments = parser.parse_args()
    names = ("jax", "jaxlib", "torch", "flax", "optax", "sbx-rl", "numpy")
    where = {
        "machine": {"cpu": processor(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
    }
    kept = json.loads(arguments.output.read_text())["rows"] if arguments.output.is_file() else []
    results = []
    for name, (what, make_ours, make_peer) in rows(arguments.flowrl, arguments.sac_flow).items():
        if arguments.rows and name not in arguments.rows:
            continue
        if make_peer is None:
            print(f"{name}: skipped: pass the checkout of the official code (--flowrl, --sac-flow).")
            continue
        results.append(compare(name, what, make_ours, make_peer, arguments.turns, arguments.seconds))
        results[-1] |= {"load_average": round(os.getloadavg()[0], 1), **where}
        print(markdown_table(results[-1:], SHOWN), flush=True)
        kept = [row for row in kept if row["row"] != name] + results[-1:]
        arguments.output.write_text(json.dumps({"rows": kept}, indent=1) + "\n")
    print(markdown_table(results, SHOWN))


def processor() -> str:
    """The processor's name, with what decides how fast it multiplies, where Linux tells."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        told = {name.strip(): value.strip() for name, _, value in lines}
        flags = told["flags"].split()
        units = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX BF16"}
        named = f"{told['model name']}, family {told['cpu family']}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()
    return ", ".join([named, *(text for flag, text in units.items() if flag in flags)])


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


SHOWN = (
    "row",
    "ratio",
    "ratio_range",
    "peer_ms_per_update",
    "ours_ms_per_update",
    "ours_gflop_per_second",
    "void",
)

if __name__ == "__main__":
    main()
