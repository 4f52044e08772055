"""Presets: they name what there is, make valid learners, and leave arms of a comparison alike."""

from pathlib import Path

import pytest

from penstock._errors import ConfigurationError
from penstock.algorithms.registry import ALGORITHMS
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
        known = world in worlds or world in families
        assert known or (world.endswith("/") and any(name.startswith(world) for name in worlds)), world
        assert set(entry) <= {"run", "pathwise", "off-policy", "on-policy", *ALGORITHMS}, world
        for algorithm in ALGORITHMS:
            make_plan(algorithm, world if world in worlds else f"{world}pendulum")


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
            assert run == preset("apg", world)[0]
            own = set(PRESETS[world].get(algorithm, {}))
            shared = PRESETS[world].get(ALGORITHMS[algorithm].family, {})
            assert {k: v for k, v in settings.items() if k not in own} == {
                k: v for k, v in shared.items() if k not in own
            }


def test_a_preset_of_another_family_is_refused():
    with pytest.raises(ConfigurationError, match=r"preset = 'light' is for off-policy algorithms, not for rfo"):
        make_plan("rfo", "classic/pendulum", preset="light")
