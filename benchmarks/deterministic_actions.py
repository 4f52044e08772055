"""Which deterministic action stands for a flow: rules compared on trained runs, in the same episodes.

    python benchmarks/deterministic_actions.py runs/headline/soft-jumper/RFO-seed-1 [...] --episodes 32

Rules: the action of zero noise; of one fixed typical noise; the mean of the actions of 2, 8 or 32 fixed noises; that
of 8, or of one mode among them; the best of 8 such actions (and zero noise's) by the critic, that is, by one step of
the world and V behind it; and, beside them, fresh noise. Prints a table and adds it to
``benchmarks/results/deterministic_actions.json``.
"""

import argparse
import json
from pathlib import Path

from penstock._jax_setup import set_up_jax

set_up_jax()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from penstock.policies.deterministic_action import DeterministicAction, fixed_noises  # noqa: E402
from penstock.reports.tables import markdown_table  # noqa: E402
from penstock.storage.store import best_checkpoint, latest_checkpoint  # noqa: E402
from penstock.training.drivers.functional import seed_keys  # noqa: E402
from penstock.training.evaluation import run_episodes  # noqa: E402
from penstock.training.restore import load_state, read_plan  # noqa: E402
from penstock.training.running import make_driver  # noqa: E402

OUTPUT = Path(__file__).parent / "results" / "deterministic_actions.json"

RULES = {
    "zero noise": DeterministicAction("zero"),
    "one typical noise": DeterministicAction("typical"),
    "mean of 2": DeterministicAction("mean", 2),
    "mean of 8": DeterministicAction("mean", 8),
    "mean of 32": DeterministicAction("mean", 32),
    "modal mean of 8": DeterministicAction("modal", 8),
}


def best_by_the_critic(learner, state, world, key, candidates: int):
    """Returns of episodes in which every action is the best of a few by ``r + gamma V`` of one step. No chunks."""
    agent, world_state = learner.agent(state.learned), world.reset(jax.random.split(key)[0])
    noises = jnp.asarray(fixed_noises(candidates, agent.actor.policy.flat_size))
    noises = jnp.concatenate([jnp.zeros((1, noises.shape[1])), noises])

    def body(carry, _):
        now, alive = carry
        features = agent.features(now.observation)
        carried = jax.vmap(lambda z: jax.vmap(lambda f: agent.actor.policy.draw(f, z).action)(features))(noises)

        def worth(action):
            _, seen = world.step(now, action)
            value = state.learned.critic.values(seen.final_observation, state.learned.normalizer).mean(axis=0)
            return seen.reward + learner.config.discount * jnp.where(seen.terminated, 0.0, value)

        best = jnp.argmax(jax.lax.map(worth, carried), axis=0)
        action = jnp.take_along_axis(carried, best[None, :, None], axis=0)[0]
        after, transition = world.step(now, action)
        return (after, alive & ~transition.done), jnp.where(alive, transition.reward, 0.0)

    start = (world_state, jnp.ones((world.num_envs,), bool))
    return jax.lax.scan(body, start, None, length=world.episode_length)[1].sum(axis=0)


def measure(folder: Path, episodes: int, checkpoint: str) -> list[dict]:
    """A row for every seed of a run."""
    plan, checkpoints = read_plan(folder), folder / "checkpoints"
    world = plan.make_world()
    learner = plan.make_learner(world)
    best = checkpoint == "best"
    opened = best_checkpoint(checkpoints) if best else latest_checkpoint(checkpoints, set_aside=False)
    states, manifest = load_state(opened, make_driver(learner, world), seed_keys(plan.seed, plan.seeds))
    world, key = world.with_num_envs(episodes), jax.random.key(9)

    def returns(state):
        agent = learner.agent(state.learned)
        found = {"latent std": agent.latent_std(state.world.observation, key)}
        for name, rule in RULES.items():
            found[name] = run_episodes(agent.acting_by(rule), world, key, deterministic=True)[0].episode_return
        found["fresh noise"] = run_episodes(agent, world, key, deterministic=False)[0].episode_return
        if agent.chunk_length == 1 and state.learned.critic is not None:
            found["best of 9 by the critic"] = best_by_the_critic(learner, state, world, key, 8)
        return jax.tree.map(jnp.mean, found)

    rows, compiled = [], jax.jit(returns)
    for index in range(plan.seeds):
        found = compiled(states.seed(index))
        row = {"run": folder.name, "world": plan.world, "velocity": plan.settings.flat()["velocity"]}
        row |= {"seed": plan.seed + index, "env_steps": manifest.step}
        rows.append(
            row | {name: round(float(value), 3 if name == "latent std" else 1) for name, value in found.items()}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--checkpoint", default="last")
    arguments = parser.parse_args()
    data = json.loads(OUTPUT.read_text()) if OUTPUT.is_file() else []
    for folder in arguments.runs:
        rows = measure(folder, arguments.episodes, arguments.checkpoint)
        data = [row for row in data if (row["run"], row["world"]) != (rows[0]["run"], rows[0]["world"])] + rows
        OUTPUT.write_text(json.dumps(data, indent=1) + "\n")
    print(markdown_table(data))


if __name__ == "__main__":
    main()
