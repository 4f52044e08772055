"""Worlds of rsl_rl for its tests: points on a plane, pushed to the origin."""

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict


class Points(VecEnv):
    """Double integrators, ``v += 0.2 a``, ``x += 0.2 v``, with the reward ``-|x|^2 - 0.1 |v|^2``; 25 steps."""

    def __init__(self, num_envs=64, seed=0):
        self.num_envs, self.num_actions, self.max_episode_length = num_envs, 2, 25
        self.device, self.cfg = "cpu", {}
        self.generator = torch.Generator().manual_seed(seed)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.state = torch.zeros(num_envs, 4)
        self.reset(torch.ones(num_envs, dtype=torch.bool))

    def reset(self, where):
        begun = torch.rand(self.num_envs, 4, generator=self.generator) * 2.0 - 1.0
        begun[:, 2:] = 0.0
        self.state = torch.where(where[:, None], begun, self.state)
        self.episode_length_buf[where] = 0

    def get_observations(self):
        return TensorDict({"policy": self.state.clone()}, batch_size=[self.num_envs])

    def step(self, actions):
        velocity = self.state[:, 2:] + 0.2 * actions.clamp(-1.0, 1.0)
        position = self.state[:, :2] + 0.2 * velocity
        self.state = torch.cat([position, velocity], dim=1)
        reward = -position.square().sum(dim=1) - 0.1 * velocity.square().sum(dim=1)
        self.episode_length_buf += 1
        done = self.episode_length_buf >= self.max_episode_length
        self.reset(done)
        return self.get_observations(), reward, done.long(), {"time_outs": done}


def mirrored(env, obs, actions):
    """The plane turned by half: positions, velocities and actions with the opposite sign, behind the originals."""
    if obs is not None:
        turned = TensorDict({"policy": -obs["policy"]}, batch_size=obs.batch_size)
        obs = torch.cat([obs, turned])
    return obs, None if actions is None else torch.cat([actions, -actions])
