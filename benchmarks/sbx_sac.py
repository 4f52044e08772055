"""Trains SBX's SAC on a Gymnasium environment and writes evaluation returns, to stand beside Penstock's on one task.

    python benchmarks/sbx_sac.py Pendulum-v1 --steps 20000 --hidden 256 256 --seeds 0 1 2 --output SBX-SAC
    python benchmarks/sbx_sac.py dmc/cartpole-swingup --preset light --steps 50000 --seeds 1 2 3 --output SBX-SAC

Needs the package sbx-rl beside Penstock. The environment is a Gymnasium id, or the name of a hosted world of Penstock
(``dmc/<domain>-<task>``), and is the very environment that Penstock trains on. ``--preset light`` takes environments,
widths, batches, rates and temperature of Penstock's preset of that name. Each evaluation plays whole episodes with the
mode of the policy in an environment of its own. The output is a folder with ``config.json`` and ``metrics.jsonl``, as
of a run of Penstock.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import sbx
from peer_learning import Lines, begin_output, environment_factory, mean_return, parser_for
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from penstock.algorithms.sac import Config
from penstock.training.presets import named_preset


class Evaluation(BaseCallback):
    """Writes one line every so many environment steps."""

    def __init__(self, env, lines: Lines, every: int):
        super().__init__()
        self.env, self.lines, self.every = env, lines, every

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            self.lines.write(self.num_timesteps, self._evaluate)
        return True

    def _evaluate(self) -> dict[str, float]:
        def act(observation):
            return self.model.predict(observation, deterministic=True)[0]

        return {"eval/return_deterministic": mean_return(act, self.env, self.lines.episodes)}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--preset", default="", help="of Penstock's SAC, for example light")
    arguments = parser.parse_args()
    begin_output(arguments)
    run, settings = named_preset("sac", arguments.preset) if arguments.preset else ({}, {})
    config, num_envs = Config.preset(settings), run.get("num_envs", 1)
    make = environment_factory(arguments.environment)
    for seed in arguments.seeds:
        model = sbx.SAC(
            "MlpPolicy",
            make_vec_env(make, num_envs, seed=seed),
            seed=seed,
            learning_rate=config.optimizer.actor_learning_rate,
            qf_learning_rate=config.critic.critic_learning_rate,
            batch_size=config.batch_size,
            learning_starts=config.warmup_steps,
            train_freq=1,  # in control steps of all environments
            gradient_steps=config.updates_per_step,
            gamma=config.discount,
            tau=config.critic.target_rate,
            ent_coef=f"auto_{config.initial_temperature}",  # at the actor's rate
            buffer_size=min(config.replay_capacity, arguments.steps),
            policy_kwargs={
                "net_arch": {"pi": list(config.actor_hidden), "qf": list(config.critic.critic_hidden)},
                "layer_norm": config.critic.layer_norm,
            },
        )
        lines = Lines(arguments, seed)
        model.learn(arguments.steps, callback=Evaluation(make(), lines, arguments.evaluate_every))


if __name__ == "__main__":
    main()
