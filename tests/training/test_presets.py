"""Presets: they name what there is, make valid learners, and leave arms of a comparison alike."""

from pathlib import Path

import pytest

from penstock._errors import ConfigurationError
from penstock.algorithms.registry import ALGORITHMS
from penstock.training.brax_presets import BRAX_PRESETS
from penstock.training.plan import make_plan
from penstock.training.presets import NAMED, PRESETS, preset
from penstock.worlds import world_entries, world_families

RELEASED_FLOWRL = Path(__file__).parents[2] / "benchmarks" / "released_flowrl.py"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("world", [entry.name for entry in world_entries()])
def test_presets_make_valid_learners(algorithm, world):
    if world == "soft/jumper":
        pytest.skip("takes seconds to build; its preset is checked by type below")
    plan = make_plan(algorithm, world)
    plan.make_learner(plan.make_world())


def test_presets_name_real_fields_and_worlds():
    worlds = {entry.name for entry in world_entries()}
    families = {f"{family.prefix}/" for family in world_families()}
    for world, entry in PRESETS.items():
        family = f"{world.partition('/')[0]}/"  # whose members nobody lists
        known = world in worlds or family in families
        assert known or (world.endswith("/") and any(name.startswith(world) for name in worlds)), world
        assert set(entry) <= {"run", "on-policy run", "pathwise", "off-policy", "on-policy", *ALGORITHMS}, world
        for algorithm in ALGORITHMS if world not in BRAX_PRESETS else ("ppo", "nfpo"):
            make_plan(algorithm, world if world[-1] not in "/:" else f"{world}pendulum")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_presets_by_name(algorithm):
    shared = [name for name, content in NAMED.items() if ALGORITHMS[algorithm].family in content]
    for name in shared:
        plan = make_plan(algorithm, "dmc/cartpole-swingup", preset=name)
        assert plan.settings != make_plan(algorithm, "dmc/cartpole-swingup").settings
    with pytest.raises(ConfigurationError, match=f"preset = 'lihgt': {algorithm} has no such preset"):
        make_plan(algorithm, "dmc/cartpole-swingup", preset="lihgt")


def test_a_preset_by_name_keeps_what_it_does_not_state_and_yields_to_settings():
    light = make_plan("flowrl", "dmc/walker-run", preset="light", settings={"batch_size": 7})
    assert light.settings.batch_size == 7 and light.settings.policy == ALGORITHMS["flowrl"].config().policy
    assert light.settings.collect_steps == NAMED["light"]["off-policy"]["collect_steps"]
    for velocity, widths in (("gated", (128, 128)), ("decoded", (64,))):
        plan = make_plan("sac-flow", "gym/Ant-v5", preset="light", settings={"velocity": velocity})
        assert plan.settings.flat()["velocity"] == velocity and plan.settings.actor_hidden == widths
        assert plan.settings.flat()["critic"] == "target"  # and what belongs to the other kind is left out


@pytest.mark.parametrize("name", ["FlowRL", "CodeWeighting", "ConstantWeight"])
@pytest.mark.parametrize("chosen", ["", "light"])
def test_the_released_flowrl_takes_flowrls_presets(name, chosen):
    ours = make_plan("flowrl", "humanoidbench/h1-walk-v0", preset=chosen)
    released = make_plan(f"{RELEASED_FLOWRL}:{name}", "humanoidbench/h1-walk-v0", preset=chosen)
    assert released.settings.flat() == ours.settings.flat() and released.num_envs == ours.num_envs
    assert released.title == name and released.settings.expectile == 0.8


def test_flowrls_former_preset_names_what_took_its_place():
    with pytest.raises(ConfigurationError, match=r"preset = 'released': is an algorithm .*released_flowrl.py:FlowRL"):
        make_plan("flowrl", "dmc/walker-run", preset="released")


def test_arms_on_one_world_share_everything_but_their_own():
    """A comparison is fair only if what is not the algorithm is equal."""
    for world in PRESETS:
        for algorithm in ALGORITHMS:
            run, settings = preset(algorithm, world)
            family = ALGORITHMS[algorithm].family
            assert run == {**PRESETS[world].get("run", {}), **PRESETS[world].get(f"{family} run", {})}
            own = set(PRESETS[world].get(algorithm, {}))
            shared = PRESETS[world].get(ALGORITHMS[algorithm].family, {})
            assert {k: v for k, v in settings.items() if k not in own} == {
                k: v for k, v in shared.items() if k not in own
            }


def test_a_preset_of_another_family_is_refused():
    with pytest.raises(ConfigurationError, match=r"preset = 'light' is for off-policy and on-policy algorithms, not"):
        make_plan("rfo", "classic/pendulum", preset="light")
    with pytest.raises(ConfigurationError, match=r"preset = 'rsl-rl' is for on-policy algorithms, not for sac"):
        make_plan("sac", "gym/Hopper-v5", preset="rsl-rl")


@pytest.mark.parametrize(
    ("world", "given", "num_envs", "minibatches"),
    [
        ("gym/Hopper-v5", {}, 1, 1),
        ("gym/Hopper-v5", {"preset": "light"}, 4, 4),
        ("gym/Hopper-v5", {"num_envs": 12}, 12, 4),
        ("classic/pendulum", {}, 64, 8),
    ],
)
def test_minibatches_of_a_recurrent_policy_are_as_many_as_whole_windows_allow(world, given, num_envs, minibatches):
    plan = make_plan("ppo", world, settings={"recurrent": "gru"}, **given)
    plan.settings.require_minibatches(plan.num_envs)
    assert (plan.num_envs, plan.settings.minibatches) == (num_envs, minibatches)
    chosen = make_plan("ppo", world, settings={"recurrent": "gru", "minibatches": 3}, **given)
    assert chosen.settings.minibatches == 3, "what was asked for stays, and is refused where it does not fit"
    with pytest.raises(ConfigurationError, match="num_envs = 'x'"):
        make_plan("ppo", world, settings={"recurrent": "gru"}, **{**given, "num_envs": "x"})


def values(algorithm, world, name=""):
    """Everything that a preset decides, flat."""
    plan = make_plan(algorithm, world, preset=name)
    plan.settings.require_minibatches(plan.num_envs)
    return {"num_envs": plan.num_envs, "steps": plan.steps, **plan.settings.flat()}


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        # As mujoco_playground/config has them at d5e6b47: Go1, a biped, a task that is not listed, the suite, an arm.
        (
            "playground/Go1JoystickFlatTerrain",
            {"num_envs": 8192, "steps": 200_000_000, "window": 20, "epochs": 4, "minibatches": 32, "discount": 0.97}
            | {"actor_learning_rate": 3e-4, "entropy_coefficient": 0.01, "clip_range": 0.3, "gradient_clip": 1.0}
            | {"actor_hidden": (512, 256, 128), "critic_hidden": (512, 256, 128), "activation": "silu"},
        ),
        ("playground/G1JoystickRoughTerrain", {"clip_range": 0.2, "entropy_coefficient": 0.005, "steps": 200_000_000}),
        ("playground/BerkeleyHumanoidJoystickFlatTerrain", {"clip_range": 0.2, "steps": 150_000_000, "window": 20}),
        ("playground/H1InplaceGaitTracking", {"actor_hidden": (128,) * 4, "critic_hidden": (256,) * 5, "window": 20}),
        (
            "jax/playground:WalkerWalk",
            {"num_envs": 2048, "steps": 60_000_000, "window": 480, "epochs": 16, "minibatches": 32, "discount": 0.995}
            | {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "actor_hidden": (32,) * 4, "clip_range": 0.3},
        ),
        ("playground/WalkerRun", {"steps": 100_000_000, "discount": 0.995}),
        ("playground/FingerSpin", {"steps": 60_000_000, "discount": 0.95}),
        ("playground/PandaPickCubeCartesian", {"window": 20, "minibatches": 8, "entropy_coefficient": 7.5e-3}),
        ("playground/LeapCubeReorient", {"window": 40, "discount": 0.99, "num_envs": 8192}),
        # As google/brax's notebooks/training.ipynb at 0b96d05.
        ("jax/brax:ant", {"num_envs": 4096, "window": 80, "epochs": 4, "discount": 0.97, "steps": 50_000_000}),
        ("jax/brax:pusher", {"num_envs": 2048, "window": 120, "minibatches": 16, "epochs": 8, "discount": 0.95}),
    ],
)
def test_presets_of_brax_and_playground_by_hand(world, expected):
    ppo = values("ppo", world)
    assert {name: ppo[name] for name in expected} == expected
    assert ppo["policy"] == "gaussian" and ppo["state_dependent_std"] and ppo["squash"] == "tanh"
    assert ppo["initial_log_std"] == pytest.approx(-0.3651, abs=1e-4)  # log(softplus(0) + 0.001)
    nfpo = values("nfpo", world)
    assert nfpo["policy"] == "coupling" and {name: nfpo[name] for name in expected} == expected


def test_every_preset_of_brax_and_playground_divides_into_minibatches():
    for world in BRAX_PRESETS:
        values("ppo", world if world[-1] not in "/:" else f"{world}another")
    assert make_plan("sac", "playground/CheetahRun").num_envs == 32, "of other families nothing is known there"


@pytest.mark.parametrize("algorithm", ["ppo", "nfpo"])
def test_the_settings_of_rsl_rl_by_hand(algorithm):
    expected = {"window": 24, "epochs": 5, "minibatches": 4, "discount": 0.99, "gae_lambda": 0.95, "clip_range": 0.2}
    expected |= {"entropy_coefficient": 0.01, "value_clip": 0.2, "actor_learning_rate": 1e-3, "kl_target": 0.01}
    expected |= {"gradient_clip": 1.0, "actor_hidden": (512, 256, 128), "activation": "elu", "squash": "clip"}
    envs = {"gym/Hopper-v5": 64, "dmc/walker-walk": 64, "classic/pendulum": 64, "playground/Go1Getup": 8192}
    for world, num_envs in envs.items():
        found = values(algorithm, world, "rsl-rl")
        assert {name: found[name] for name in expected} == expected and found["num_envs"] == num_envs
    if algorithm == "ppo":
        assert found["initial_log_std"] == 0.0 and not found["state_dependent_std"]


def test_light_is_stable_baselines3_s_in_four_environments():
    """Also where the world's own preset says otherwise."""
    for algorithm in ("ppo", "nfpo"):
        default = ALGORITHMS[algorithm].config().flat()
        for world in ("gym/Hopper-v5", "playground/Go1JoystickFlatTerrain", "classic/pendulum", "soft/jumper-mini"):
            light = values(algorithm, world, "light")
            assert light.pop("num_envs") * light["window"] == default["window"] and light.pop("steps") == 100_000
            assert {**light, "window": default["window"]} == default
