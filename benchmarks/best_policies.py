"""The best unimodal and the best policy of the worlds in which a unimodal policy must lose, without learning.

    python benchmarks/best_policies.py

Policies without memory and without action chunks. In both worlds all decisions of an episode that matter are made at
one observation, so that they are independent draws from one law over actions; the expected return is a function of that
law, computed here from tables and not from episodes. Unimodal means: a diagonal Gaussian squashed by tanh, over a grid
of all means and standard deviations that the policy class has (log standard deviation from -5 to 2), and every single
action.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from penstock.policies.gaussian import LOG_STD_BOUNDS
from penstock.worlds.classic import DeceptiveBasins, TwoGapWall


def cells(count):
    """Edges and centres of equal cells on [-1, 1]."""
    edges = np.linspace(-1.0, 1.0, count + 1)
    return edges, 0.5 * (edges[1:] + edges[:-1])


def gaussian_weights(edges, means, deviations, squash=True):
    """Probability of each cell under tanh(N(mean, deviation^2)), or under the Gaussian clipped to [-1, 1].

    Returns ``(means, deviations, cells)``.
    """
    inner = np.arctanh(edges[1:-1]) if squash else edges[1:-1]
    bounds = np.concatenate([[-np.inf], inner, [np.inf]])
    means, deviations = np.asarray(means)[:, None, None], np.asarray(deviations)[None, :, None]
    return np.diff(norm.cdf((bounds - means) / deviations), axis=-1)


def deviations(count):
    """Standard deviations over the whole range of the policy class."""
    return np.exp(np.linspace(*LOG_STD_BOUNDS, count))


# --- two-gap wall -------------------------------------------------------------------------------------------------


def launches(task, aims, side=1.0, forward=(0.0,), later=((0.0, 0.0),)):
    """What becomes of an attempt, per lateral launch action and option.

    Options are all pairs of a forward launch action and a constant action after the launch.

    Returns:
        ``total (aims, options, T)``, the reward up to each step, standing still after the end of the attempt;
        ``back (aims, options)``, after how many steps the wall has thrown it back, T + 1 for never; and ``through``.
    """
    steps = task.episode_length
    start = jnp.array([task.launch, 0.0])
    state = task.initial(jax.random.key(0))
    state = eqx.tree_at(lambda s: (s.position, s.start, s.side), state, (start, start, jnp.asarray(side)))

    def attempt(aim, option):
        launch = jnp.stack([option[0], aim])

        def step(carry, t):
            state, alive = carry
            state, outcome = task.advance(state, jnp.where(t == 0, launch, option[1:]))
            back = outcome.diagnostics["thrown_back"] > 0.0
            events = (alive * outcome.reward, alive & back, alive & outcome.terminated)
            return (state, alive & ~back & ~outcome.terminated), events

        _, (reward, back, through) = jax.lax.scan(step, (state, jnp.ones((), bool)), jnp.arange(steps))
        when = lambda flags: jnp.where(flags.any(), flags.argmax() + 1, steps + 1)  # noqa: E731
        return jnp.cumsum(reward), when(back), when(through)

    options = jnp.asarray([[f, *after] for f, after in itertools.product(forward, later)], jnp.float32)
    return jax.jit(jax.vmap(jax.vmap(attempt, (None, 0)), (0, None)))(jnp.asarray(aims, jnp.float32), options)


def two_gap_return(table, weights):
    """Expected return and share of successes of launches drawn with ``weights (aims,)`` from a symmetric grid of aims.

    With time T left, ``G(T) = E_a [ max over options of  R(a, T) + G(T - back(a)) where thrown back before T ]``;
    the mirror image stands for the other side. With several options the later control knows the open side: a bound.
    """
    total, back, through = table
    steps = total.shape[-1]

    def value(weights):
        def body(left, values):
            returns, chances = values
            again = back <= left
            rest = jnp.clip(left - back, 0)
            scores = total[:, :, left - 1] + jnp.where(again, returns[rest], 0.0)
            best = scores.argmax(1)[:, None]
            chance = jnp.where(again, chances[rest], through <= left)
            pick = lambda x: weights @ jnp.take_along_axis(x, best, 1)[:, 0]  # noqa: E731
            return returns.at[left].set(pick(scores)), chances.at[left].set(pick(chance))

        zeros = jnp.zeros(steps + 1)
        return jnp.stack([x[steps] for x in jax.lax.fori_loop(1, steps + 1, body, (zeros, zeros))])

    return 0.5 * (value(weights) + value(weights[::-1]))


def two_gap_wall(aims=400, means=41, spreads=36, ascent=300):
    """Best expected returns in `TwoGapWall`; see `report`."""
    task = TwoGapWall()
    edges, grid = cells(aims)
    tables = {ahead: launches(task, grid, forward=(ahead,)) for ahead in (-1.0, 0.0, 1.0)}
    families = {}

    mus, sigmas = np.linspace(0.0, 1.6, means), deviations(spreads)
    labels = [f"mean {m:.2f}, deviation {s:.3f}" for m in mus for s in sigmas]
    for name, squash in (("tanh-Gaussian", True), ("clipped Gaussian", False)):
        families[name] = gaussian_weights(edges, mus, sigmas, squash).reshape(-1, aims), labels
    families["tanh-Gaussian around the middle"] = gaussian_weights(edges, [0.0], sigmas)[0], labels
    single, right = np.eye(aims)[aims // 2 :], grid[aims // 2 :]
    families["one aim"] = single, [f"{aim:.3f}" for aim in right]
    families["two aims"] = 0.5 * (single + single[:, ::-1]), [f"+-{aim:.3f}" for aim in right]

    # All laws: ascent on the simplex, from uniform, with multiplicative steps.
    slope = jax.grad(lambda logits: two_gap_return(tables[1.0], jax.nn.softmax(logits))[0])

    @jax.jit
    def climb(logits):
        def step(_, logits):
            return logits + 2.0 * slope(logits) / jnp.maximum(jax.nn.softmax(logits), 1e-6)

        return jax.nn.softmax(jax.lax.fori_loop(0, ascent, step, logits))

    law = np.asarray(climb(jnp.zeros(aims)))
    top = ", ".join(f"{aim:.3f}" for aim in grid[law > 0.01 * law.max()][:8])
    families["any law"] = law[None], [f"on {top}"]
    best = {}
    for ahead, table in tables.items():
        for name, row in _best_of(table, families).items():
            if name not in best or row["return"] > best[name]["return"]:
                best[name] = {**row, "law": f"{row['law']}; forward {ahead:+.0f}"}

    # The little that is left of the launcher later, and the forward action, used by one who knows the open side.
    corners = tuple(itertools.product((-1.0, 0.0, 1.0), repeat=2))
    generous = launches(task, grid, forward=(-1.0, 0.0, 1.0), later=corners)
    laws = np.concatenate([gaussian_weights(edges, mus[::2], sigmas[::3]).reshape(-1, aims), single])
    bounds = {"tanh-Gaussian": laws, "two aims": families["two aims"][0]}
    bounds = {f"{name}, all else done knowing the side": (laws, [""] * len(laws)) for name, laws in bounds.items()}
    return {**best, **_best_of(generous, bounds)}


@jax.jit
def _scores(table, laws):
    return jax.lax.map(lambda weights: two_gap_return(table, weights), laws)


def _best_of(table, families):
    """The best law of each family, by expected return."""
    laws = jnp.asarray(np.concatenate([laws for laws, _ in families.values()]), jnp.float32)
    values = np.asarray(_scores(table, laws))
    best = {}
    for name, (laws, labels) in families.items():
        own, values = values[: len(laws)], values[len(laws) :]
        first = own[:, 0].argmax()
        best[name] = {"return": float(own[first, 0]), "success": float(own[first, 1]), "law": labels[first]}
    return best


# --- deceptive basins ---------------------------------------------------------------------------------------------


def mean_catches(task, weights, grid):
    """E c_i for all pairs of laws over the two coordinates, exactly as sums over cells: ``(laws, laws, 2)``."""
    result = []
    for top, width in ((task.low, task.low_width), (task.high, task.high_width)):
        axis = lambda i, w, top=top: weights @ np.exp(-0.5 * ((grid - top[i]) / w) ** 2)  # noqa: E731
        core = np.multiply.outer(axis(0, width), axis(1, width))
        skirt = np.multiply.outer(axis(0, task.skirt_width), axis(1, task.skirt_width))
        result.append((1.0 - task.skirt) * core + task.skirt * skirt)
    return np.stack(result, -1)


def deceptive_basins(cells_per_axis=800, means=65, spreads=36):
    """Best expected returns in `DeceptiveBasins`; see `report`."""
    task = DeceptiveBasins()
    edges, grid = cells(cells_per_axis)
    heights = np.array([task.low_height, task.high_height])
    value = lambda catch: (1.0 - (1.0 - catch) ** task.episode_length) @ heights  # noqa: E731
    mus, sigmas = np.linspace(-1.2, 1.4, means), deviations(spreads)
    best = {}
    for name, squash in (("tanh-Gaussian", True), ("clipped Gaussian", False)):
        values = value(mean_catches(task, gaussian_weights(edges, mus, sigmas, squash).reshape(-1, len(grid)), grid))
        x, y = np.unravel_index(values.argmax(), values.shape)
        label = "; ".join(f"mean {mus[i // spreads]:.2f}, deviation {sigmas[i % spreads]:.3f}" for i in (x, y))
        best[name] = {"return": float(values.max()), "law": label}
    at = np.asarray(task.catch(jnp.asarray([task.low, task.high])), float)
    for name, share in (("low hill alone", at[0]), ("high hill alone", at[1])):
        best[name] = {"return": float(value(share)), "law": ""}
    # All laws over a grid of places: the return is concave in the law, so that Frank-Wolfe finds the best one.
    places = np.stack(np.meshgrid(cells(80)[1], cells(80)[1], indexing="ij"), -1).reshape(-1, 2)
    places = np.concatenate([places, [task.low, task.high]])
    catches = np.asarray(task.catch(jnp.asarray(places)), float)
    law, mean = np.zeros(len(places)), np.zeros(2)
    for i in range(2000):
        slope = heights * task.episode_length * (1.0 - mean) ** (task.episode_length - 1)
        chosen = (catches @ slope).argmax()
        law *= 1.0 - 1.0 / (i + 1.0)
        law[chosen] += 1.0 / (i + 1.0)
        mean = law @ catches
    top = places[law > 0.05]
    best["any law"] = {"return": float(value(mean)), "law": " and ".join(f"({x:.2f}, {y:.2f})" for x, y in top)}
    return best


STUDIES = {"classic/two-gap-wall": two_gap_wall, "classic/deceptive-basins": deceptive_basins}


def report(best):
    """A table: expected return, share of successes where known, and the law that has them."""
    lines = ["| best | return | success | law |", "|---|---:|---:|---|"]
    for name, row in best.items():
        success = f"{row['success']:.2f}" if "success" in row else ""
        lines.append(f"| {name} | {row['return']:.2f} | {success} | {row['law']} |")
    return "\n".join(lines)


def main():
    for world, study in STUDIES.items():
        print(f"\n{world}\n\n{report(study())}")


if __name__ == "__main__":
    from penstock._jax_setup import set_up_jax

    set_up_jax()
    main()
