"""What is said of ids that are not registered, or out of date."""

import types

import pytest

from penstock._errors import ConfigurationError
from penstock.worlds import make_world
from penstock.worlds.hosted.ids import newer_id, unknown_id


def spec(entry):
    return types.SimpleNamespace(entry_point=entry)


REGISTRY = {
    "Pusher-v4": spec("gymnasium.envs.mujoco:Pusher"),
    "Pusher-v5": spec("gymnasium.envs.mujoco:Pusher"),
    "space/Push-v0": spec("pushing.envs:Push"),
    "space/Many-v0": spec(None),
    "Mine-v0": spec(unknown_id),
}


@pytest.mark.parametrize(
    ("name", "package", "said", "unsaid"),
    [
        ("Pusher-v55", "", "Gymnasium knows no 'Pusher-v55'. Did you mean 'Pusher-v5'?", ""),
        (
            "Push-v0",
            "pushing",
            "pushing is there, but registers no 'Push-v0' with Gymnasium. Did you mean 'space/Push-v0'?",
            "",
        ),
        ("Lift-v9", "pushing.envs", "It registers space/Push-v0.", "Many"),
        ("Mine-v1", "module", "Did you mean 'Mine-v0'?", ""),
        ("Pusher-v0", "module", "module is there, but registers no 'Pusher-v0' with Gymnasium.", "'Pusher-v"),
        ("json/Lift-v0", "", "its package is imported first where you write gym/json:json/Lift-v0.", "Did you mean"),
        ("nowhere/Lift-v0", "", "An id of another package is written gym/package:Id-v0", "imported first"),
    ],
)
def test_an_id_that_is_not_registered(name, package, said, unsaid):
    sentence = unknown_id(name, package, REGISTRY)
    assert said in sentence and (not unsaid or unsaid not in sentence.replace(f"'{name}'", ""))


def test_a_newer_version_is_named():
    assert newer_id("Pusher-v2", REGISTRY) == " Its newest version is Pusher-v5."
    assert newer_id("Pusher-v5", REGISTRY) == newer_id("Unknown-v0", REGISTRY) == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gymnasium/Pendulum-v1", "Did you mean 'gym/Pendulum-v1'?"),
        ("dm_control/walker-run", "Did you mean 'dmc/walker-run'?"),
        ("Pendulum-v1", "An id of Gymnasium is written 'gym/Pendulum-v1'."),
        ("gym/json:Lift-v0", "json is there, but registers no 'Lift-v0'"),
        ("gym/HalfCheetah-v3", "Its newest version is HalfCheetah-v5."),
    ],
)
def test_names_as_others_write_them(name, sentence):
    with pytest.raises((ConfigurationError, ImportError)) as caught:
        make_world(name, 1)
    assert sentence in str(caught.value)


def test_what_is_registered_as_a_vector_alone_is_told(monkeypatch):
    import gymnasium

    monkeypatch.setitem(gymnasium.registry, "Many-v0", gymnasium.registry["Pendulum-v1"].__class__("Many-v0", None))
    with pytest.raises(ConfigurationError, match=r"registered as a vector of environments alone.*make_vec\('Many-v0'"):
        make_world("gym/Many-v0", 1)
