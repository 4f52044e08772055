"""The compiled programs: several seeds in one program, counters, traces (F30, F31)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.algorithms import apg
from penstock.algorithms.keys import purpose_key
from penstock.algorithms.learner import Count, added, counts, means, nothing, results
from penstock.algorithms.registry import ALGORITHMS
from penstock.training.drivers.functional import FunctionalDriver, begin, iterate, seed_keys
from penstock.training.drivers.rates import rates_of
from penstock.training.drivers.state import RunState
from penstock.worlds import make_world

SETTINGS = apg.Config(window=4, actor_hidden=(8,))


@functools.cache
def program():
    world = make_world("classic/double-integrator", 4, episode_length=10)
    return FunctionalDriver(apg.Learner(SETTINGS, world, 8), world.with_num_envs(2))


def trained(first_seed, seeds, blocks=(3, 1)):
    state = program().init(seed_keys(first_seed, seeds))
    rows = []
    for iterations in blocks:
        state, metrics = program().train(state, jnp.asarray(iterations, jnp.int32))
        rows.append(metrics)
    return state, rows


def words(tree, index=None):
    """Every array of a tree as bytes, of one seed."""
    if isinstance(tree, RunState):
        one = tree.seed(index)
        tree = one.with_parts(jax.tree.map(lambda leaf: leaf[None], one.parts))
        index = 0
        tree = (*tree.parts, jax.tree.map(lambda leaf: leaf[None], tree.clock))
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [
        (
            jax.tree_util.keystr(path),
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf,
        )
        for path, leaf in leaves
    ]
    return {name: np.asarray(leaf[index]).tobytes() for name, leaf in leaves}


@pytest.mark.slow
def test_three_seeds_in_one_program_are_three_runs_bit_for_bit(compiled_as_for_users):
    compiled_as_for_users(three_seeds_are_three_runs)


def three_seeds_are_three_runs():
    together, rows = trained(5, 3)
    for index in range(3):
        alone, rows_alone = trained(5 + index, 1)
        assert words(together, index) == words(alone, 0)
        for row, row_alone in zip(rows, rows_alone, strict=True):
            assert words(row, index) == words(row_alone, 0)
    assert words(together, 0) != words(together, 1)
    # One trace per number of seeds, whatever the length of a block.
    assert program().traces["train"] == 2


def test_blocks_of_any_length_compute_the_same():
    one, _ = trained(0, 1, (4,))
    other, _ = trained(0, 1, (1, 2, 1))
    assert words(one, 0) == words(other, 0)
    assert int(one.clock.update) == 4 and int(one.clock.env_steps) == 4 * 16


def test_metrics_are_means_and_counters_are_sums():
    _, single = trained(0, 1, (1, 1, 1))
    state, (block,) = trained(0, 1, (3,))
    one = state.seed(0)
    key = purpose_key(one.key, one.clock.update, "measure")
    measured = jax.jit(program().learner.measure)(one.learned, one.world.observation, key)
    assert "policy/latent_std" in measured
    for name, value in block.items():
        values = [float(row[name][0]) for row in single]
        counter = name.startswith("world/") or name.endswith("/skipped")
        expected = sum(values) if counter else sum(values) / 3
        if name in measured:  # of the state at the end of the block
            expected = float(measured[name])
            assert values[-1] == pytest.approx(expected, rel=1e-5)
        assert float(value[0]) == pytest.approx(expected, rel=1e-5, abs=1e-7), name


def test_metrics_carry_their_weight():
    """Four iterations, of which the first two are warm-up and learn nothing."""

    def update(loss, actor_is_due):
        actor = means({"actor/loss": jnp.asarray(3.0)}) | counts({"actor/steps": 1})
        critic = means({"critic/loss": jnp.asarray(loss)}) | counts({"critic/skipped": True})
        return critic | (actor if actor_is_due else nothing(actor))

    total = nothing(update(0.0, True))
    assert set(map(float, results(total).values())) == {0.0}
    for loss, actor_is_due in ((10.0, True), (10.0, False), (20.0, True), (20.0, True)):
        total = added(total, update(loss, actor_is_due))
    found = {name: float(value) for name, value in results(total).items()}
    assert found == {"critic/loss": 15.0, "actor/loss": 3.0, "actor/steps": 3.0, "critic/skipped": 4.0}
    assert isinstance(total["critic/skipped"], Count)


def conditions(jaxpr):
    """Number of `cond` in a program, those of inner programs included."""
    inner = [v for e in jaxpr.eqns for v in e.params.values()]
    flat = [w for v in inner for w in (v if isinstance(v, tuple | list) else [v])]
    bodies = [getattr(v, "jaxpr", v) for v in flat]
    here = sum(e.primitive.name == "cond" for e in jaxpr.eqns)
    return here + sum(conditions(b) for b in bodies if hasattr(b, "eqns"))


ACCELERATOR = {
    "sac": {"batch_size": 8, "warmup_steps": 8, "collect_steps": 2, "actor_hidden": (4,), "critic_hidden": (4,)}
    | {"policy_delay": 2},
    "shac2": {"window": 4, "actor_hidden": (4,), "critic_hidden": (4,), "critic_passes": 1, "critic_minibatches": 1},
    "rfo": {"window": 4, "actor_hidden": (4,), "critic_hidden": (4,), "critic_passes": 1, "critic_minibatches": 1}
    | {"chunk_length": 2},
}
ACCELERATOR["sac with chunks"] = ACCELERATOR["sac"] | {"chunk_length": 2}


@pytest.mark.parametrize(
    "case",
    ["sac", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sac with chunks", "shac2", "rfo"))],
)
def test_side_by_side_seeds_keep_every_condition(case):
    """On accelerators too: warm-up, delayed updates, chunk boundaries, values and resets are skipped."""
    entry = ALGORITHMS[case.split()[0]]
    world = make_world("classic/double-integrator", 4, episode_length=10)
    learner = entry.learner(entry.config.of(**ACCELERATOR[case]), world, 8)
    driver = FunctionalDriver(learner, world.with_num_envs(2), together=True)

    def count(seeds):
        state = driver.template(seed_keys(0, seeds))
        return conditions(jax.make_jaxpr(driver.train)(state, jnp.asarray(1, jnp.int32)).jaxpr)

    alone = jax.make_jaxpr(lambda state: iterate(learner, state)[0])(
        jax.eval_shape(lambda key: begin(learner, key), jax.random.key(0))
    )
    assert (
        count(3) == count(1) == conditions(alone.jaxpr) >= {"sac": 4, "sac with chunks": 5, "shac2": 3, "rfo": 4}[case]
    )


@pytest.mark.parametrize("together", [True, False], ids=["side by side", "one after the other"])
def test_seeds_of_one_program_compute_what_each_computes_alone(together):
    """To rounding: bit for bit, as users' programs are compiled, is above."""
    driver = FunctionalDriver(program().learner, program().evaluation_world, together=True) if together else program()
    state = driver.init(seed_keys(5, 2))
    state, metrics = driver.train(state, jnp.asarray(2, jnp.int32))
    assert state.clock.update.shape == () and int(state.clock.update) == 2
    for index in range(2):
        alone, rows = trained(5 + index, 1, (2,))
        for one, other in zip(
            jax.tree.leaves(state.seed(index).learned), jax.tree.leaves(alone.seed(0).learned), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics["train/reward"][index], rows[0]["train/reward"][0], rtol=1e-5)


def test_a_block_is_given_its_states_away():
    """Donated: the memory of the states before a block is that of the states after it."""
    state = program().init(seed_keys(1, 1))
    rates = rates_of(program().learner, None, 1)
    text = program()._train.lower(state, rates, jnp.asarray(1, jnp.int32)).as_text()
    arrays = len(jax.tree.leaves(state))
    assert text.count("tf.aliasing_output") + text.count("jax.buffer_donor") >= arrays - 1


def test_of_several_memories_one_alone_is_held_twice():
    """On a CPU, where seeds run one after the other: while a seed learns, its memory is a copy."""
    entry = ALGORITHMS["sac"]
    world = make_world("classic/double-integrator", 4, episode_length=10)
    tiny = {"actor_hidden": (4,), "critic_hidden": (4,), "collect_steps": 1, "batch_size": 4, "warmup_steps": 0}
    learner = entry.learner(entry.config.of(**tiny, replay_capacity=4_000_000), world, 10**6)
    driver = FunctionalDriver(learner, world.with_num_envs(2), together=False)
    seeds = 3
    states = driver.template(seed_keys(0, seeds))
    memory = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states.memory))
    driver.compile(states, jnp.asarray(1, jnp.int32), None)
    needed = driver._compiled.memory_analysis()
    assert memory > 2**27 and needed.temp_size_in_bytes < 1.2 * memory / seeds
    assert needed.alias_size_in_bytes > memory


def test_seed_keys_are_those_of_single_seeds():
    keys = seed_keys(3, 4)
    for index in range(4):
        assert jnp.array_equal(jax.random.key_data(keys[index]), jax.random.key_data(jax.random.key(3 + index)))


@pytest.mark.parametrize("algorithm", ["rfo", "sac"])
def test_a_state_names_its_axes(algorithm):
    """Of every array; a layer as wide as there are environments is not mistaken."""
    entry = ALGORITHMS[algorithm]
    world = make_world("soft/jumper-mini", 4)
    settings = ACCELERATOR[algorithm] | ({"replay_capacity": 40} if algorithm == "sac" else {})
    driver = FunctionalDriver(entry.learner(entry.config.of(**settings), world, 8), world)
    state = driver.template(seed_keys(0, 3))
    axes = state.axes(world)
    for leaf, names in zip(jax.tree.leaves(state), jax.tree.leaves(axes), strict=True):
        sizes = dict(zip(names.names, leaf.shape, strict=True))
        assert sizes.get("environment", 4) == 4 and sizes.get("seed", 3) == 3
    assert axes.world.body.position[0].names == ("seed", None, "environment")
    assert axes.world.observation.vector.names[:2] == ("seed", "environment") and axes.clock.update.names == ()
    known = {name for names in jax.tree.leaves(axes.learned.actor) for name in names.names}
    assert known == {"seed", None}
    if algorithm == "sac":
        assert axes.memory.ring.reward.names == ("seed", "slot", "environment") and axes.memory.filled.names == (
            "seed",
        )
