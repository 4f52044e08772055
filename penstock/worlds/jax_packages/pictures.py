"""Pictures of environments that have a MuJoCo model (MJX, Brax), drawn as all MuJoCo models are, without OpenGL."""

from typing import Any

import numpy as np
from jaxtyping import PyTree

from penstock._errors import PenstockError
from penstock.scene.items import Scene


def model_of(env: Any) -> Any:
    """The MuJoCo model of an environment of Playground (``mj_model``) or Brax (``sys.mj_model``); None for others."""
    model = getattr(env, "mj_model", None)
    model = getattr(getattr(env, "sys", None), "mj_model", None) if model is None else model
    return model if type(model).__name__ == "MjModel" else None


class MujocoPictures:
    """Scenes of one environment's model, which is looked for once.

    Args:
        env: one with a model (`model_of`); others cannot be drawn.
        caption: of each frame.
    """

    def __init__(self, env: Any, caption: str = ""):
        self._model: Any = model_of(env)
        self._caption = caption
        self._drawn: Any = None

    def scene(self, state: PyTree) -> Scene | None:
        """The scene of one environment's state: ``state.data`` of MJX, or ``state.pipeline_state`` of Brax."""
        found: Any = next(
            (part for name in ("data", "pipeline_state") if (part := getattr(state, name, None)) is not None), None
        )
        places: Any = getattr(found, "qpos", getattr(found, "q", ()))
        if self._model is None or np.shape(places) != (self._model.nq,):
            return None
        import mujoco as compiled

        from penstock.scene.mujoco import MujocoScenes

        mujoco: Any = compiled  # a static checker cannot read MuJoCo's compiled classes
        try:
            if self._drawn is None:
                self._drawn = MujocoScenes(self._model), mujoco.MjData(self._model)
            scenes, data = self._drawn
            data.qpos[:] = places
            for name in ("mocap_pos", "mocap_quat"):
                if np.size(getattr(found, name, ())) and np.shape(getattr(found, name)) == getattr(data, name).shape:
                    getattr(data, name)[:] = getattr(found, name)
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_comPos(self._model, data)
            mujoco.mj_camlight(self._model, data)
            mujoco.mj_tendon(self._model, data)
            return scenes.scene(data, self._caption)
        except Exception as error:  # a picture is worth no run
            raise PenstockError(f"This model cannot be drawn: {type(error).__name__}: {error}") from error
