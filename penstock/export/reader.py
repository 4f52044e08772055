"""Runs a policy that Penstock exported to a .npz file. Needs NumPy alone.

policy = Policy("policy.npz")
policy.reset()                  # when an episode begins
action = policy(observation)    # at every control step, in the units of the actuators
"""

import json
import math

import numpy as np

OPERATIONS = {
    "erf": np.vectorize(math.erf, otypes=[np.float32]),
    "logistic": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "slice": lambda x, start, stop, step: x[tuple(map(slice, start, stop, step))],
    "concatenate": lambda *parts, axis: np.concatenate(parts, axis),
    "astype": lambda x, dtype: x.astype(dtype),
    "reshape": lambda x, shape: x.reshape(shape),
}


def finite(name, values):
    """The values; raises ValueError unless all of them are numbers."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: it holds NaN or infinity. Stop the robot.")
    return values


class Policy:
    """A policy from a file. ``metadata`` says what it observes and does, in which order, and where it comes from."""

    def __init__(self, path, seed=None):
        with np.load(path, allow_pickle=False) as file:
            self._constants = {name: file[name] for name in file.files}
        self.metadata = json.loads(self._constants.pop("metadata").item())
        program = json.loads(self._constants.pop("program").item())
        self.inputs, self._output = program["inputs"], program["outputs"]["action"]
        self._steps, self._random = [], np.random.default_rng(seed)
        for name, arguments, result, given in program["instructions"]:
            parameters = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
            self._steps.append((OPERATIONS.get(name) or getattr(np, name), arguments, result, parameters))
        self._history = self.metadata.get("observation", {}).get("history", {}).get("length", 1)
        self.reset()

    def reset(self):
        """Begins an episode: forgets what is planned and what was seen."""
        self._plan, self._seen = [], None

    def __call__(self, observation=None, **others):
        """The action of this step, of what is observed now; the next one, where the policy plans several at once."""
        if self._history > 1:
            kept = [observation] * self._history if self._seen is None else [*self._seen[1:], observation]
            self._seen, observation = kept, np.concatenate(kept)
        if not self._plan:
            self._plan = list(np.atleast_2d(self.decide(observation, **others)))
        return self._plan.pop(0)

    def decide(self, observation=None, **others):
        """The action ``(d,)``, or the plan ``(C, d)``, of a whole history; ``others``: points, pixels, noise, where it takes any."""
        if others.keys() - self.inputs.keys():
            raise TypeError(f"This policy takes {list(self.inputs)}, and not {list(others)}.")
        given, values = {"observation": observation, **others}, dict(self._constants)
        for name, wanted in self.inputs.items():
            if name == "noise" and given.get(name) is None:
                given[name] = self._random.standard_normal(wanted["shape"])
            values[name] = finite(name, np.asarray(given.get(name), wanted["dtype"]))
            if values[name].shape != tuple(wanted["shape"]):
                raise ValueError(f"{name}: it has the shape {values[name].shape}, and must have {wanted['shape']}.")
        with np.errstate(all="ignore"):
            for function, arguments, result, parameters in self._steps:
                values[result] = function(*[values[argument] for argument in arguments], **parameters)
        return finite("action", values[self._output])
