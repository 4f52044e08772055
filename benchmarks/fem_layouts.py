"""Cost of one finite-element substep per environment: naive `vmap` against the two layouts of the package.

Run: ``python benchmarks/fem_layouts.py``. Prints a table of CPU microseconds per environment and substep (process
time of one computing thread; the fastest of several blocks that alternate between the forms; compilation apart) and
writes ``benchmarks/results/fem_layouts.json``. The body has 300 elements and 140 vertices on the ground, in float32;
"f+b" is the gradient of a scalar of the final state with respect to initial state and activation, with per-substep
rematerialisation in every form.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import time
from pathlib import Path

# One thread, set before JAX starts: what is compared is the work itself, not how it is shared out.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import jax.numpy as jnp

from penstock.physics import MassScaledContact, Material, Motion, SoftBody, simulate, voxel_mesh
from penstock.physics.layout import pack, unpack

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "physics"))
import naive_fem  # noqa: E402

DT = 0.002
SUBSTEPS = 32


def quadruped() -> SoftBody:
    """60 voxels: a torso of 7 x 4 x 1 on four legs of 2 x 2 x 2 (300 elements)."""
    legs = [(x, y, z) for x, z, y in itertools.product((0, 1, 5, 6), (0, 3), (0, 1))]
    legs += [(x, y, z) for x, z, y in itertools.product((0, 1, 5, 6), (1, 2), (0, 1))]
    torso = [(x, 2, z) for x, z in itertools.product(range(7), range(4))]
    return SoftBody(voxel_mesh(legs + torso, 0.1), Material.from_young(3e4, 0.3, 30.0, 1e3), MassScaledContact())


def cases(body: SoftBody, num_envs: int):
    """Yields (form, function, arguments): functions from (positions, velocities, activation) to a scalar."""
    rest = jnp.asarray(body.rest, jnp.float32)
    noise = 0.002 * jax.random.normal(jax.random.key(0), (num_envs, *rest.shape))
    x = rest + noise
    act = 0.1 * jax.random.normal(jax.random.key(1), (num_envs, body.num_tets))

    def naive(x, v, act):
        x, v = naive_fem.simulate(body, x, v, act, DT, SUBSTEPS)
        return jnp.sum(x * x) + jnp.sum(v * v)

    yield "naive vmap", naive, (x, jnp.zeros_like(x), act)
    components = tuple(x[..., i].T for i in range(3))
    for layout in ("rows", "soa"):
        position = pack(components, layout)

        def ours(position, velocity, act):
            motion = simulate(body, Motion(position, velocity), act, DT, SUBSTEPS)
            return sum(jnp.sum(c * c) for part in motion for c in unpack(part))

        yield layout, ours, (position, jax.tree.map(jnp.zeros_like, position), act.T)


def measure(num_envs: int, repeats: int, seconds: float) -> list[dict]:
    """Rows of the table for one number of environments."""
    body = quadruped()
    programs = []
    for form, function, arguments in cases(body, num_envs):
        for mode, program in (("forward", function), ("f+b", jax.value_and_grad(function, argnums=(0, 1, 2)))):
            start = time.process_time()
            compiled = jax.jit(program).lower(*arguments).compile()
            compile_seconds = time.process_time() - start
            result = jax.block_until_ready(compiled(*arguments))
            value = float(result[0] if mode == "f+b" else result)
            programs.append((form, mode, compiled, arguments, compile_seconds, value, []))
    for _ in range(repeats):
        for _, _, compiled, arguments, _, _, times in programs:
            calls, start = 0, time.process_time()
            while time.process_time() - start < seconds or calls == 0:
                jax.block_until_ready(compiled(*arguments))
                calls += 1
            times.append((time.process_time() - start) / calls)
    return [
        {
            "form": form,
            "mode": mode,
            "num_envs": num_envs,
            "vertices": body.num_vertices,
            "tets": body.num_tets,
            "cpu_us_per_env_substep": 1e6 * min(times) / (num_envs * SUBSTEPS),
            "compile_cpu_s": compile_seconds,
            "value": value,
        }
        for form, mode, _, _, compile_seconds, value, times in programs
    ]


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="CPU seconds per block")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fem_layouts.json")
    options = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    rows = [row for n in options.num_envs for row in measure(n, options.repeats, options.seconds)]
    print(f"{'form':<12}{'mode':<9}{'N':>5}{'us/env-substep':>16}{'vs naive':>10}{'compile s':>11}")
    for row in rows:
        base = next(
            r for r in rows if (r["form"], r["mode"], r["num_envs"]) == ("naive vmap", row["mode"], row["num_envs"])
        )
        row["times_cheaper_than_naive"] = base["cpu_us_per_env_substep"] / row["cpu_us_per_env_substep"]
        print(
            f"{row['form']:<12}{row['mode']:<9}{row['num_envs']:>5}{row['cpu_us_per_env_substep']:>16.2f}"
            f"{row['times_cheaper_than_naive']:>10.1f}{row['compile_cpu_s']:>11.1f}"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"jax": jax.__version__, "backend": jax.default_backend(), "machine": processor(), "rows": rows}
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
