"""Drivers of other codes' own update functions, for `update_speed.py`. No code of theirs is here.

Every driver returns a `Peer`: ``run(n)`` makes n updates as the peer's own training loop makes them, from its own
replay memory filled with random transitions, and returns only when they are finished.

* FlowRL (bytedance/FlowRL at e26279b, PyTorch): ``flowAC.update_parameters`` with the default configuration on the CPU,
  epsilon 0 and lambda 0.1. ``Tensor.cuda`` becomes the identity, the policy's hard-wired device becomes the CPU, and
  TorchDynamo is off (on a CPU, compiled mode is not faster and takes minutes to warm up). Its bfloat16 autocast, which
  is on by default where there is a GPU, is a flag of the agent and works on a CPU, too.
* SAC Flow (Elessar123/SAC-FLOW at 3df8b9d, JAX): the text of its from-scratch script runs up to its training loop, on
  an environment that has shapes alone; then its jitted ``update_critic`` and ``update_target`` run on every batch of
  its replay memory, and ``update_actor_and_alpha`` on every third.
* SBX SAC and CrossQ (package sbx-rl, JAX): ``train(gradient_steps, batch_size)``, several gradient steps in one
  compiled call, which is SBX at its fastest.
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np

TRANSITIONS = 20_000
"""In FlowRL's replay memory."""


@dataclasses.dataclass
class Peer:
    """Another code, ready to be timed.

    Attributes:
        run: makes so many updates and waits until they are finished.
        parameters: number of trained parameters: actor, critics.
        products: computes n float32 products 256 x 512 x 512 by the peer's library, where that is not JAX.
    """

    run: Callable[[int], None]
    parameters: tuple[int, int]
    products: Callable[[int], object] | None = None


class Shapes(gym.Env):
    """An environment that has shapes and nothing else."""

    def __init__(self, observation_size: int = 17, action_size: int = 6):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (action_size,), np.float32)

    def reset(self, *, seed=None, options=None):
        """A random observation."""
        super().reset(seed=seed)
        return self._observation(), {}

    def _observation(self):
        return self.np_random.standard_normal(self.observation_space.shape).astype(np.float32)

    def step(self, action):
        """A random observation, reward 0, no end."""
        return self._observation(), 0.0, False, False, {}


def flowrl(checkout: Path, observation_size: int, action_size: int, precision: str = "float32") -> Peer:
    """FlowRL's own agent. See the module's text."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import torch

    torch.set_num_threads(1)
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    sys.path.insert(0, str(checkout))
    from model.algo import flowAC
    from utilis.default_config import default_config
    from utilis.Replaybuffer import ReplayMemory

    settings = default_config.copy()
    settings.update(cuda=False, epsilon=0.0, lamda=0.1, device=0)
    space = Shapes(observation_size, action_size).action_space
    agent = flowAC(observation_size, space, settings)
    agent.policy.device = torch.device("cpu")
    agent.amp_enabled = precision == "bfloat16"
    memory, rng = ReplayMemory(TRANSITIONS, seed=0), np.random.default_rng(0)
    for _ in range(TRANSITIONS):
        state, after = rng.standard_normal((2, observation_size), dtype=np.float32)
        memory.push(state, rng.uniform(-1, 1, action_size).astype(np.float32), rng.standard_normal(), after, 1.0)
    done = 0

    def run(updates: int) -> None:
        nonlocal done
        for _ in range(updates):
            agent.update_parameters(memory, settings.batch_size, done)
            done += 1

    def size(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    x, w = torch.ones(256, 512), torch.ones(512, 512)
    parameters = size(agent.policy), size(agent.critic, agent.critic_buffer, agent.V_critic_buffer)
    return Peer(run, parameters, products=lambda n: [x @ w for _ in range(n)])


def sac_flow(checkout: Path, script: str, observation_size: int = 17, action_size: int = 6) -> Peer:
    """The functions that a from-scratch script of SAC Flow defines. See the module's text."""
    gym.register("Shapes-v0", lambda **_: Shapes(observation_size, action_size))
    text = (checkout / "from_scratch_code" / script).read_text().split("    start_time = time.time()")[0]
    arguments, folder = sys.argv, Path.cwd()
    sys.path.insert(0, str(checkout))
    sys.argv = [script, "--env-id", "Shapes-v0", "--no-track", "--buffer-size", "4096"]
    names = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as scratch:  # it writes a log folder where it stands
        os.chdir(scratch)
        try:
            exec(compile(text, script, "exec"), names)  # the user's own checkout
        finally:
            sys.argv = arguments
            os.chdir(folder)
    memory, rng = names["rb"], np.random.default_rng(0)
    for ring in (memory.observations, memory.next_observations, memory.rewards):
        ring[...] = rng.standard_normal(ring.shape)
    memory.actions[...] = rng.uniform(-1, 1, memory.actions.shape)
    memory.full = True
    settings = names["args"]
    state = {"updates": 0, **{name: names[name] for name in ("actor_state", "qf_state", "alpha_state", "key")}}

    def run(updates: int) -> None:
        actor, critic, alpha, key = (state[name] for name in ("actor_state", "qf_state", "alpha_state", "key"))
        for _ in range(updates):
            data = memory.sample(settings.batch_size)
            observations = data.observations.numpy()
            critic, *_, key = names["update_critic"](
                actor,
                critic,
                alpha,
                observations,
                data.actions.numpy(),
                data.next_observations.numpy(),
                data.rewards.flatten().numpy(),
                data.dones.flatten().numpy(),
                key,
            )
            critic = names["update_target"](critic, settings.tau)
            state["updates"] += 1
            if state["updates"] % settings.policy_delay == 0:
                actor, alpha, *_, key = names["update_actor_and_alpha"](actor, critic, alpha, observations, key)
        state.update(actor_state=actor, qf_state=critic, alpha_state=alpha, key=key)
        jax.block_until_ready((actor, critic, alpha))

    def size(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    return Peer(run, (size(state["actor_state"].params), size(state["qf_state"].params)))


def sbx(algorithm: str, observation_size: int = 17, action_size: int = 6, per_call: int = 12) -> Peer:
    """SBX's SAC or CrossQ with its default networks. ``per_call``: gradient steps per compiled call."""
    import sbx as package
    from stable_baselines3.common.logger import Logger

    model = getattr(package, algorithm)("MlpPolicy", Shapes(observation_size, action_size), buffer_size=4_096)
    model.set_logger(Logger(None, []))
    memory, rng = model.replay_buffer, np.random.default_rng(0)
    for ring in (memory.observations, memory.next_observations, memory.rewards):
        ring[...] = rng.standard_normal(ring.shape)
    memory.actions[...] = rng.uniform(-1, 1, memory.actions.shape)
    memory.full = True

    def run(updates: int) -> None:
        for _ in range(updates // per_call):
            model.train(gradient_steps=per_call, batch_size=256)
        jax.block_until_ready((model.policy.qf_state, model.policy.actor_state))

    def size(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    return Peer(run, (size(model.policy.actor_state.params), size(model.policy.qf_state.params)))
