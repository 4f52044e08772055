"""HumanoidBench's tasks: Gymnasium ids of a package that is installed, or checked out and on the Python path.

The package (github.com/carlosferrazza/humanoid-bench, commit 791405f) names fields of the model that later MuJoCo
renamed: it runs with MuJoCo 3.1.6 only, in an environment of its own.
"""

import importlib.util
import sys
import types
from typing import Any

from penstock._errors import ConfigurationError
from penstock.worlds.hosted.packages import MissingPackageError, package, suggest_few

MUJOCO = "3.1.6"


def refuse_unusable(ident: str) -> None:
    """Raises `MissingPackageError` unless HumanoidBench and its MuJoCo are here; says what to install."""
    world = f"humanoidbench/{ident}"
    package("gymnasium", world, "humanoidbench")
    mujoco = package("mujoco", world, "humanoidbench")
    if importlib.util.find_spec("humanoid_bench") is None:
        raise MissingPackageError(
            f"'{world}' needs HumanoidBench, which is on no package index. In an environment of its own: "
            "pip install 'penstock[humanoidbench]', then clone github.com/carlosferrazza/humanoid-bench and put the "
            "clone's folder on PYTHONPATH."
        )
    if mujoco.__version__ != MUJOCO:
        raise MissingPackageError(
            f"'{world}': HumanoidBench runs with MuJoCo {MUJOCO} exactly, and {mujoco.__version__} is installed. In an "
            "environment of its own: pip install 'penstock[humanoidbench]'."
        )


def make_humanoid_bench(ident: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """One environment."""
    import gymnasium

    _import_package()
    if ident not in gymnasium.registry:
        ours = [name for name in gymnasium.registry if name.startswith(("h1", "g1", "digit"))]
        raise ConfigurationError(f"humanoidbench/{ident}: there is no such task.{suggest_few(ident, ours)}")
    # By default a viewer is opened, which fails without a screen.
    return gymnasium.make(ident, disable_env_checker=True, **{"render_mode": None, **dict(options)})


def _import_package() -> None:
    """Imports the package without the converter of its hierarchical policies, which wants PyTorch."""
    converter = "humanoid_bench.mjx.flax_to_torch"
    if converter not in sys.modules:
        stand_in = types.ModuleType(converter)
        stand_in.TorchModel = stand_in.TorchPolicy = None  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules[converter] = stand_in
    importlib.import_module("humanoid_bench")
