"""Small differentiable tasks, and the probes in which a unimodal policy must lose."""

from penstock.worlds.classic.cartpole_swingup import CartpoleSwingup
from penstock.worlds.classic.deceptive_basins import DeceptiveBasins
from penstock.worlds.classic.double_integrator import DoubleIntegrator
from penstock.worlds.classic.multi_goal import MultiGoal
from penstock.worlds.classic.pendulum import Pendulum
from penstock.worlds.classic.two_gap_wall import TwoGapWall
from penstock.worlds.registry import register_world

__all__ = ["CartpoleSwingup", "DeceptiveBasins", "DoubleIntegrator", "MultiGoal", "Pendulum", "TwoGapWall"]

register_world("classic/pendulum", "Swing up a rod with a motor too weak to lift it at once.", Pendulum)
register_world("classic/cartpole-swingup", "Swing up a pole by moving its cart.", CartpoleSwingup)
register_world(
    "classic/double-integrator",
    "Bring a point mass to rest: linear-quadratic, gradients known in closed form.",
    DoubleIntegrator,
)
register_world(
    "classic/two-gap-wall", "Two gaps look alike and one is closed: a unimodal policy must lose.", TwoGapWall
)
register_world(
    "classic/deceptive-basins",
    "A low hill near, a high hill far, and each pays once: a unimodal policy must lose.",
    DeceptiveBasins,
)
register_world(
    "classic/multi-goal", "Four goals around the start, equally good: how many of them does the policy know?", MultiGoal
)
