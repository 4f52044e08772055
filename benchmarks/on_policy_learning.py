"""PPO and NFPO on tasks that people compare, beside Stable-Baselines3's PPO: a million steps, five seeds.

    python benchmarks/on_policy_learning.py trials                 # four settings each, 200,000 steps, two other seeds
    python benchmarks/on_policy_learning.py longer-trials          # five each, 400,000 steps, three other seeds
    python benchmarks/on_policy_learning.py plan                   # what is left, and what it costs
    python benchmarks/on_policy_learning.py run                    # ours; an interrupted run continues
    pip install stable-baselines3 torch
    python benchmarks/on_policy_learning.py peer                   # theirs; an interrupted run begins anew
    python benchmarks/on_policy_learning.py report                 # tables and figures from what has ended

Same tasks, environments (8), window (256 steps of each), minibatches (32 of 64), epochs (10), rates (3e-4), networks
(64, 64, tanh; apart for actor and critic), discount, lambda, clip range and gradient norm (0.5), observations
normalised and rewards not; one thread each. What differs: our Gaussian is squashed by tanh where theirs is clipped to
the box, and we clip the gradients of actor and critic apart. Every 50,000 steps ten episodes are played stochastically
and ten with the mode. Seeds go in turns, so that a study that is cut short has as many of each arm.
``benchmarks/results/on_policy/learning`` keeps the evaluations of every run, theirs in the same form, so that
``penstock plot`` draws all of them.
"""

import argparse
import dataclasses
import shutil

from learning import RESULTS, ROOT, slug
from processes import run_scripts
from series import SingleRun, report_runs, run_left

SUITE = "on_policy/learning"
WORLDS = ("gym/HalfCheetah-v5", "gym/Hopper-v5", "gym/Walker2d-v5", "dmc/walker-walk")
SEEDS, STEPS, EVERY, EPISODES = (1, 2, 3, 4, 5), 1_000_000, 50_000, 10
NUM_ENVS, WINDOW = 8, 256
ARMS = ("PPO", "NFPO")
PEER = "Stable-Baselines3 PPO"


@dataclasses.dataclass(frozen=True)
class Trials:
    """A round of trials, of which some settings are chosen.

    Attributes:
        suite: folder of its runs and results.
        settings: of an arm, by the name of the trial.
        worlds: where.
        seeds: others than those of the study.
        steps: of a run.
    """

    suite: str
    settings: dict[str, dict[str, tuple[str, ...]]]
    worlds: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int

    def runs(self) -> list[SingleRun]:
        """In the order in which they start."""
        return [
            SingleRun(
                self.suite,
                world,
                arm,
                f"{arm}+{trial}",
                seed,
                self.steps,
                100_000,
                NUM_ENVS,
                (f"window={WINDOW}", *self.settings[arm][trial]),
            )
            for seed in self.seeds
            for world in self.worlds
            for arm in ARMS
            for trial in self.settings[arm]
        ]


FIRST = Trials(
    "on_policy/trials",
    {
        "PPO": {
            "start": (),
            "kl-0.01": ("kl_target=0.01",),
            "rate-1e-4": ("actor_learning_rate=1e-4",),
            "rate-1e-3": ("actor_learning_rate=1e-3",),
        },
        "NFPO": {
            "start": ("bound=1.0",),
            "kl-0.01": ("bound=1.0", "kl_target=0.01"),
            "rate-1e-4": ("bound=1.0", "actor_learning_rate=1e-4"),
            "bound-0.5": ("bound=0.5",),
        },
    },
    ("gym/HalfCheetah-v5", "dmc/walker-walk"),
    (11, 12),
    200_000,
)
LONGER = Trials(
    "on_policy/longer-trials",
    {
        "PPO": {
            "start": (),
            "rate-1e-3": ("actor_learning_rate=1e-3",),
            "rate-1e-4": ("actor_learning_rate=1e-4",),
            "entropy-0.005": ("entropy_coefficient=0.005",),
            "state-dependent-std": ("state_dependent_std=True",),
        },
        "NFPO": {
            "bound-0.25": ("bound=0.25",),
            "bound-0.1": ("bound=0.1",),
            "bound-0.5": ("bound=0.5",),
            "bound-1": ("bound=1.0",),
            "bound-1-entropy-0.005": ("bound=1.0", "entropy_coefficient=0.005"),
        },
    },
    ("gym/HalfCheetah-v5",),
    (11, 12, 13),
    400_000,
)
"""The first ones are too short to see what it costs that noise dies early."""


def run_trials(round_of: Trials, processes: int) -> None:
    """Runs what is left of a round of trials, and prints what has ended."""
    run_left(round_of.runs(), processes)
    for world in round_of.worlds:
        report_runs(round_of.suite, world, figures=False)


def trials(arguments: argparse.Namespace) -> None:
    run_trials(FIRST, arguments.processes)


def longer_trials(arguments: argparse.Namespace) -> None:
    run_trials(LONGER, arguments.processes)


def runs(arguments: argparse.Namespace, arms: tuple[str, ...]) -> list[SingleRun]:
    """The runs of these arms, in the order in which they start. Of the peer's, name and results alone are used."""
    return [
        SingleRun(SUITE, world, arm, arm, seed, STEPS, EVERY, NUM_ENVS, (f"window={WINDOW}",))
        for seed in arguments.seeds
        for world in arguments.worlds
        for arm in arms
    ]


def plan(arguments: argparse.Namespace) -> None:
    """Says what is left; costs are those of runs of the same arm that have ended, on the same world if there are."""
    every = runs(arguments, (*ARMS, PEER))
    cost = {run: run.last_row["cpu_seconds"] for run in every if run.is_finished and run.last_row}
    total, left = 0.0, [run for run in every if not run.is_finished]
    for run in left:
        alike = [seconds for other, seconds in cost.items() if (other.arm, other.world) == (run.arm, run.world)]
        alike = alike or [seconds for other, seconds in cost.items() if other.arm == run.arm]
        total += sum(alike) / max(len(alike), 1)
        print(f"{run.world} {run.name}: {f'{sum(alike) / len(alike):,.0f} CPU s' if alike else 'not measured'}")
    print(f"{len(left)} of {len(every)} runs are left; those whose cost is known: {total / 3600:.1f} CPU hours")


def run(arguments: argparse.Namespace) -> None:
    run_left(runs(arguments, tuple(arguments.arms)), arguments.processes)


def peer(arguments: argparse.Namespace) -> None:
    """Trains what is left of Stable-Baselines3, which this environment must have."""
    import stable_baselines3  # noqa: F401  says at once that it is missing

    left = [run for run in runs(arguments, (PEER,)) if not run.is_finished]
    run_scripts(
        {
            f"{run.world} {run.name}": [__file__, "one-peer", "--worlds", run.world, "--seeds", str(run.seed)]
            for run in left
        },
        arguments.processes,
    )


def one_peer(arguments: argparse.Namespace) -> None:
    """One run of Stable-Baselines3 in this process."""
    import torch
    from peer_learning import Lines, begin_output, environment_factory, mean_return
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    (world,), (seed,) = arguments.worlds, arguments.seeds
    (kept,) = runs(arguments, (PEER,))
    folder = ROOT / "runs" / SUITE / slug(world) / kept.name
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run of ours left
    arguments.environment, arguments.output, arguments.episodes = world, folder, EPISODES
    begin_output(arguments, PEER)
    make = environment_factory(world)
    envs = VecNormalize(make_vec_env(make, NUM_ENVS, seed=seed), norm_obs=True, norm_reward=False)
    model = PPO("MlpPolicy", envs, n_steps=WINDOW, batch_size=64, n_epochs=10, seed=seed, device="cpu")
    lines, env = Lines(arguments, seed), make()

    def evaluate() -> dict[str, float]:
        def acting(deterministic):
            return lambda obs: model.predict(envs.normalize_obs(obs), deterministic=deterministic)[0]

        ways = {"eval/return_mean": False, "eval/return_deterministic": True}
        return {name: mean_return(acting(way), env, EPISODES) for name, way in ways.items()}

    class Evaluation(BaseCallback):
        """Writes one line every so many environment steps."""

        def _on_training_start(self) -> None:
            lines.write(0, evaluate)

        def _on_step(self) -> bool:
            if self.num_timesteps % EVERY == 0:
                lines.write(self.num_timesteps, evaluate)
            return True

    model.learn(arguments.steps, callback=Evaluation())
    if arguments.steps >= STEPS:
        shutil.copytree(folder, kept.results, dirs_exist_ok=True)


def report(arguments: argparse.Namespace) -> None:
    for world in arguments.worlds:
        if (RESULTS / SUITE / slug(world)).is_dir():
            report_runs(SUITE, world, figures=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["trials", "longer-trials", "plan", "run", "peer", "one-peer", "report"])
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), help="of ``run``")
    parser.add_argument("--steps", type=int, default=STEPS, help="of ``one-peer``; fewer are a trial and are not kept")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    actions = {
        "trials": trials,
        "longer-trials": longer_trials,
        "plan": plan,
        "run": run,
        "peer": peer,
        "one-peer": one_peer,
        "report": report,
    }
    actions[arguments.action](arguments)


if __name__ == "__main__":
    main()
