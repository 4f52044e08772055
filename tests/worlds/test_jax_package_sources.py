"""Where environments of JAX packages come from: what is told where one is absent, Playground's engine and models.

Playground itself is played by a package of modules that keep what they are asked for; the true ones are in
`tests/worlds/test_installed_jax_packages.py`.
"""

import pathlib
import sys
import types

import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.worlds import make_world, world_families
from penstock.worlds.hosted.packages import MissingPackageError
from penstock.worlds.jax_packages.menagerie import ROBOTS, menagerie_folder, stand_ins
from penstock.worlds.registry import is_own
from tests.worlds.jax_environments import Slider


@pytest.mark.parametrize(
    ("world", "module", "extra"),
    [
        ("jax/brax:ant", "brax", "brax"),
        ("jax/gymnax:Pendulum-v1", "gymnax", "gymnax"),
        ("jax/playground:CartpoleBalance", "mujoco_playground", "playground"),
        ("playground/CartpoleBalance", "mujoco_playground", "playground"),
    ],
)
def test_an_absent_package_is_told_with_what_installs_it(world, module, extra, monkeypatch):
    for loaded in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=rf"'{world}' needs the package {module}.*penstock\[{extra}\]'"):
        make_world(world, 2)
    assert not is_own(world)


def test_what_the_families_are_called():
    assert {family.pattern for family in world_families() if family.functional} == {
        "jax/<package>:<id>",
        "playground/<id>",
    }
    with pytest.raises(ConfigurationError, match="Did you mean 'playground/CartpoleBalance'"):
        make_world("mujoco_playground/CartpoleBalance", 2)
    for wrong in ("jax/brax", "jax/brax:", "jax/ant"):
        with pytest.raises(ConfigurationError, match="write jax/<package>:<id>, for example jax/brax:ant"):
            make_world(wrong, 2)


class Registry(types.SimpleNamespace):
    """Two environments that bring their models, and robots that do not."""

    dm_control_suite = types.SimpleNamespace(ALL_ENVS=("Slide", "Plain"))
    locomotion = types.SimpleNamespace(ALL_ENVS=("Go1Walk", "Op3Joystick"))
    ALL_ENVS = ("Slide", "Plain", "Go1Walk", "Op3Joystick", "PandaPick")

    def get_default_config(self, ident):
        config = {"ctrl_dt": 0.02, "episode_length": 300, "action_repeat": 2, "noise": {"level": 1.0}}
        return config if ident == "Plain" else {"impl": "warp", **config}

    def load(self, ident, config_overrides):
        mjx_env = sys.modules["mujoco_playground._src.mjx_env"]
        self.asked = (ident, dict(config_overrides), pathlib.Path(str(mjx_env.MENAGERIE_PATH)))
        if ident == "Go1Walk" and not (self.asked[2] / "unitree_go1" / "assets" / "trunk.stl").is_file():
            raise ValueError("Error opening file 'trunk.stl'")
        env = Slider()
        env._config = {**self.get_default_config(ident), **config_overrides}
        return env


@pytest.fixture
def registry(monkeypatch, tmp_path):
    models = tmp_path / "mujoco_playground" / "_src" / "locomotion" / "go1" / "xmls"
    (models / "assets").mkdir(parents=True)
    (models / "assets" / "shipped.stl").touch()
    files = ("../../menagerie/unitree_go1/assets/trunk.stl", "hip.OBJ", "shipped.stl", "rock.png")
    (models / "go1.xml").write_text("".join(f'<mesh file="{file}"/>' for file in files))
    package, inner = types.ModuleType("mujoco_playground"), types.ModuleType("mujoco_playground._src")
    package.__file__ = str(tmp_path / "mujoco_playground" / "__init__.py")
    mjx_env = types.ModuleType("mujoco_playground._src.mjx_env")
    mjx_env.MENAGERIE_PATH = tmp_path / "absent"
    package.registry = Registry()
    for module in (package, inner, mjx_env):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    return package.registry


def test_the_engine_is_named_and_recorded_and_limits_are_the_configurations(registry):
    world = make_world("playground/Slide", 2, impl="jax")
    assert registry.asked[:2] == ("Slide", {"impl": "jax"})
    assert (world.episode_length, world.task.single.action_repeat) == (150, 2)
    assert world.describe()["engine"].endswith("impl jax") and "meshes" not in world.describe()
    world = make_world("jax/playground:Slide", 2, impl="warp", episode_length=100, **{"noise.level": 0})
    assert registry.asked[1] == {"impl": "warp", "episode_length": 100, "noise.level": 0.0}
    assert world.episode_length == 50 and world.describe()["engine"].endswith("impl warp")
    assert make_world("playground/Slide", 2, impl="jax", max_episode_steps=7).episode_length == 7
    assert "impl" not in make_world("playground/Plain", 2).describe()["engine"]
    assert registry.asked[1] == {}, "it has no choice of engines"


@pytest.mark.parametrize(
    ("ident", "options", "sentence"),
    [
        ("Slid", {}, "knows no environment 'Slid'. Did you mean 'Slide'"),
        ("Slide", {"noise.levl": 1.0}, "has no entry 'noise.levl' in its configuration. Did you mean 'noise.level'"),
        ("Slide", {"ctrl_dt": "fast"}, "ctrl_dt = 'fast': must be a number"),
        ("Slide", {"impl": "d"}, "impl = 'd': must be one of 'c', 'jax', 'warp'"),
        ("Plain", {"impl": "warp"}, "has no choice of engines"),
        ("Slide", {"meshes": "stand-in"}, "has its models with it; leave the option out"),
        ("Slide", {"menagerie": "."}, "has its models with it; leave the option out"),
        ("Go1Walk", {}, "nothing is downloaded here.*menagerie=path.*MENAGERIE_ROOT.*meshes=stand-in"),
        ("Go1Walk", {"menagerie": "nowhere"}, "menagerie = 'nowhere': there is no such folder"),
        ("Go1Walk", {"menagerie": "."}, "opening file 'trunk.stl'.*a whole copy of MuJoCo Menagerie.*meshes=stand-in"),
        ("Go1Walk", {"menagerie": ".", "meshes": "stand-in"}, "does nothing beside meshes=stand-in"),
        ("Op3Joystick", {"meshes": "stand-in"}, "takes more than visual meshes from Menagerie"),
        ("PandaPick", {"meshes": "stand-in"}, "takes more than visual meshes from Menagerie"),
    ],
)
def test_faults_are_told_in_sentences(registry, ident, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_world(f"playground/{ident}", 2, **options)


def test_stand_ins_are_offered_only_where_they_will_do(registry):
    for ident in ("Op3Joystick", "PandaPick"):
        with pytest.raises(ConfigurationError, match="MENAGERIE_ROOT") as raised:
            make_world(f"playground/{ident}", 2)
        assert "stand-in" not in str(raised.value)


def test_stand_ins_take_the_place_of_meshes_and_are_told(registry, tmp_path, caplog):
    world = make_world("playground/Go1Walk", 2, meshes="stand-in", impl="jax")
    folder = registry.asked[2]
    assert folder.is_relative_to(tmp_path / "cache") and world.describe()["meshes"] == "stand-in"
    assert "pictures are not" in caplog.text
    assert {path.name for path in (folder / "unitree_go1" / "assets").iterdir()} == {"trunk.stl", "hip.OBJ"}
    assert tmp_path / "absent" == sys.modules["mujoco_playground._src.mjx_env"].MENAGERIE_PATH, "put back"


def test_a_stand_in_is_a_closed_body_to_mujoco(tmp_path):
    mujoco = pytest.importorskip("mujoco")
    models = tmp_path / "_src" / "locomotion" / "spot" / "xmls"
    models.mkdir(parents=True)
    (models / "spot.xml").write_text('<mesh file="leg.stl"/><mesh file = "body.obj"/>')
    made = stand_ins(types.SimpleNamespace(__file__=str(tmp_path / "__init__.py")), tmp_path / "cache")
    for mesh in ("leg.stl", "body.obj"):
        path = made / ROBOTS["spot"] / "assets" / mesh
        model = mujoco.MjModel.from_xml_string(
            f'<mujoco><asset><mesh name="m" file="{path}"/></asset><worldbody><body><freejoint/>'
            '<geom type="mesh" mesh="m" density="1000"/></body></worldbody></mujoco>'
        )
        np.testing.assert_allclose(model.body_mass[1], 1000 * 0.01**3 / 6, rtol=1e-4)  # a corner of a cube of 1 cm
        assert model.mesh_facenum[0] == 4


def test_where_menagerie_is_looked_for(tmp_path, monkeypatch):
    given, named, own = (tmp_path / name for name in ("given", "named", "own"))
    for folder in (given, named, own):
        folder.mkdir()
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    assert menagerie_folder("w", None, own, "") == own
    monkeypatch.setenv("MENAGERIE_ROOT", str(named))
    assert menagerie_folder("w", None, own, "") == named
    assert menagerie_folder("w", str(given), own, "") == given
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path / "gone"))
    with pytest.raises(ConfigurationError, match=r"MENAGERIE_ROOT = '.*gone': there is no such folder"):
        menagerie_folder("w", None, own, "")
