"""Environments of packages that register none with Gymnasium, as users would make them for `compatibility.py`."""

import gymnasium


def make_robosuite(task: str, render_mode: str | None = None) -> gymnasium.Env:
    """A task of robosuite, from states, in its own wrapper; it draws nothing there."""
    import robosuite
    from robosuite.wrappers import GymWrapper

    del render_mode
    robots = ["Panda", "Panda"] if task.startswith("TwoArm") else "Panda"
    environment = robosuite.make(
        task,
        robots=robots,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        reward_shaping=True,
        horizon=100,
    )
    return gymnasium.wrappers.TimeLimit(GymWrapper(environment), 100)


def make_gymnax(name: str, render_mode: str | None = None) -> gymnasium.Env:
    """An environment of gymnax in the wrapper that comes with it."""
    import gymnax
    from gymnax.wrappers import GymnaxToGymWrapper

    del render_mode
    environment, parameters = gymnax.make(name)
    limit = getattr(parameters, "max_steps_in_episode", 1_000)
    return gymnasium.wrappers.TimeLimit(GymnaxToGymWrapper(environment, parameters), int(limit))
