"""Action chunks while a replay memory is filled: who plans when, what is done, what is remembered, by a plain loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.algorithms.registry import ALGORITHMS
from penstock.policies import Draw
from penstock.training.drivers.functional import begin, iterate, seed_keys
from penstock.training.drivers.hosted import HostedDriver
from penstock.training.drivers.memory import allocated
from penstock.training.hosted_evaluation import HostedEvaluator
from penstock.training.loop import train
from penstock.training.plan import make_plan
from penstock.training.restore import restore_run
from penstock.training.running import evaluate_seeds
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Vmapped
from tests.training.hosted_runs import ENVIRONMENTS

C, N = 4, 3
TINY = {"batch_size": 4, "collect_steps": 8, "actor_hidden": (4,), "critic_hidden": (4,), "chunk_length": C}


class Ends(SingleTask):
    """Pays its action; the episode ends after 1 to 6 steps, by a termination or by the time limit."""

    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(2))
    episode_length: int = eqx.field(static=True, default=6)
    control_timestep: float = eqx.field(static=True, default=1.0)

    def initial(self, key):
        return jnp.stack([jax.random.uniform(key, minval=1.0, maxval=9.0), jnp.zeros(())])

    def advance(self, state, action):
        after = state.at[1].add(1.0)
        return after, Outcome(action[0], after[1] >= state[0], {})

    def observe(self, state):
        return Observation(state)


def planned(xp, vector):
    """A plan that tells where it was made: ``(N, C)``."""
    return 0.9 * xp.sin(vector[:, :1] + 0.7 * vector[:, 1:2] + xp.arange(C, dtype=xp.float32))


def telling(learner):
    """The learner, exploring by such plans."""
    learner.explore = lambda learned, observation, key: Draw(*2 * (planned(jnp, observation.vector),))
    return learner


def assert_followed(ring, done_action, warm=0):
    """Plays the ring's steps again: what was done, and what is remembered.

    Args:
        ring: ``(T, N, ...)``, the oldest first, from the beginning of a run.
        done_action: ``(T, N)``, what the environments say was done.
        warm: steps of the warm-up.
    """
    steps, envs = ring.reward.shape
    happened = np.ones((steps, envs), bool) if ring.valid is None else ring.valid
    cut, late = 0, 0
    for env in range(envs):
        plan, begun, fresh, cursor = None, None, True, 0
        for t in range(steps):
            if t % C == 0 or fresh:
                plan, cursor = planned(np, ring.observation.vector[t, env : env + 1])[0], 0
                plan = None if t < warm else plan  # drawn at random: nobody can tell
                cut += t % C > 0
            if t % C == 0:
                begun = plan
            if plan is not None and happened[t, env]:
                np.testing.assert_allclose(done_action[t, env], plan[cursor], atol=2e-4)
                late += 1
            if begun is not None:
                np.testing.assert_allclose(ring.action[t, env, 0], begun[t % C], atol=1e-5)
            fresh = ring.terminated[t, env] or ring.truncated[t, env] or not happened[t, env]
            cursor += 1
    assert cut > 3 and late > 10, "plans that a reset began, and steps that were compared"


def test_functional_worlds_follow_plans_and_remember_those_of_the_stretch():
    entry = ALGORITHMS["td3"]
    world = FunctionalWorld("tiny/ends", Vmapped(Ends()), N)
    learner = telling(entry.learner(entry.config.of(**TINY, warmup_steps=6 * N, replay_capacity=1000), world, 10))
    step = jax.jit(lambda state: iterate(learner, state)[0])
    state = jax.jit(lambda key: begin(learner, key))(jax.random.key(0))
    for _ in range(4):
        state = step(state)
    ring = jax.tree.map(lambda leaf: np.asarray(leaf[:32]), state.memory.ring)
    # The stretch that the warm-up began goes on behind its end, at step 6.
    assert_followed(ring, ring.reward, warm=8)
    assert np.isfinite(ring.reward).all() and int(state.clock.gradient_steps) == 32 - 8 + 1


@pytest.mark.parametrize("environment", ["Counting", "next_step"])
def test_hosted_worlds_do_so_too_and_plan_anew_behind_a_reset_step(environment):
    plan = make_plan("td3", f"{ENVIRONMENTS}:{environment}", num_envs=2, steps=64, settings={**TINY, "warmup_steps": 0})
    world = plan.make_world()
    driver = HostedDriver(telling(plan.make_learner(world)), world.with_num_envs(2))
    try:
        state, _ = driver.train(driver.init(seed_keys(0, 1)), jnp.asarray(4, jnp.int32))
    finally:
        driver.close()
    ring = jax.tree.map(lambda leaf: leaf[0, :32], state.memory.ring)
    age = ring.next_observation.vector[..., 1]
    assert_followed(ring, ring.reward - age)


def test_the_smallest_memory_holds_a_batch_of_whole_chunks_beside_the_one_that_is_written():
    plan = make_plan("td3", f"{ENVIRONMENTS}:Counting", num_envs=2, steps=8, settings={**TINY, "warmup_steps": 0})
    slots = allocated(plan.make_learner(plan.make_world())) // 2
    assert slots % C == 0 and (slots // C - 1) * 2 >= TINY["batch_size"]


def test_the_warm_up_on_hosted_environments_draws_anew_at_every_step():
    settings = {**TINY, "chunk_length": 1, "warmup_steps": 64}
    plan = make_plan("td3", f"{ENVIRONMENTS}:Counting", num_envs=2, steps=128, settings=settings)
    world = plan.make_world()
    driver = HostedDriver(plan.make_learner(world), world.with_num_envs(2))
    try:
        state, _ = driver.train(driver.init(seed_keys(0, 1)), jnp.asarray(4, jnp.int32))
    finally:
        driver.close()
    action = state.memory.ring.action[0, :32].ravel()
    assert np.unique(action).size == 64 and np.ptp(action) > 1.5


def test_a_run_on_hosted_environments_goes_on_and_is_evaluated_by_chunks(tmp_path):
    """Twice as many steps need twice the memory: what it holds stays in whole stretches."""
    settings = {**TINY, "warmup_steps": 8, "collect_steps": 4}
    fields = {"num_envs": 2, "evaluate_every": 0, "log_every": 1, "settings": settings}
    world = f"{ENVIRONMENTS}:Counting"
    half = train(make_plan("sac", world, steps=24, **fields), tmp_path / "run").state.memory
    whole = train(make_plan("sac", world, steps=48, **fields), tmp_path / "run").state
    assert int(whole.clock.gradient_steps) == 24 - 8  # two stretches of two environments are a batch
    assert half.ring.reward.shape[1] == 12 and whole.memory.ring.reward.shape[1] == 24
    assert int(whole.memory.position[0]) % C == 0 and int(whole.memory.filled[0]) == 24
    np.testing.assert_array_equal(whole.memory.ring.action[0, :12], half.ring.action[0])
    restored = restore_run(tmp_path / "run")
    assert restored.agents[0].chunk_length == C
    one, every = (
        evaluate_seeds(restored.learner, restored.agents, 2, jax.random.key(0), replan_every_step=replan)[0]
        for replan in (False, True)
    )
    assert one["eval/return_deterministic"] != every["eval/return_deterministic"]


def test_hosted_evaluation_runs_plans_open_loop():
    """An episode's reward is age + action: 15 and the sum of the actions, of which the fifth is planned anew."""
    plan = make_plan("td3", f"{ENVIRONMENTS}:Counting", num_envs=2, steps=64, settings={**TINY, "warmup_steps": 0})
    world = plan.make_world()
    learner = plan.make_learner(world)
    agent = learner.evaluated(learner.init(jax.random.key(0)))
    where = lambda a: a.actor.policy.network.output.bias  # noqa: E731
    agent = eqx.tree_at(where, agent, jnp.array([0.1, 0.2, 0.4, 0.8]))
    flat = lambda a: a.actor.policy.network.output.weight  # noqa: E731
    agent = eqx.tree_at(flat, agent, jnp.zeros_like(flat(agent)))
    actions = np.tanh([0.1, 0.2, 0.4, 0.8])
    for replan, expected in ((False, actions.sum() + actions[0]), (True, 5 * actions[0])):
        evaluator = HostedEvaluator(learner, world, replan_every_step=replan)
        found = evaluator.run(jax.tree.leaves(agent), jax.random.key(1), deterministic=True)
        np.testing.assert_allclose(found.episode_return, 15.0 + expected, rtol=1e-5)
