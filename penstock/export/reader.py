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


class Policy:
    """A policy from a file. ``metadata`` says what it observes and does, in which order, and where it comes from."""

    def __init__(self, path, seed=None):
        with np.load(path, allow_pickle=False) as file:
            self._constants = {name: file[name] for name in file.files}
        self.metadata = json.loads(self._constants.pop("metadata").item())
        program = json.loads(self._constants.pop("program").item())
        self.inputs, self._output = program["inputs"], program["outputs"]["action"]
        self._steps = []
        for name, arguments, result, given in program["instructions"]:
            parameters = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
            self._steps.append((OPERATIONS.get(name) or getattr(np, name), arguments, result, parameters))
        self._random = np.random.default_rng(seed)
        self.reset()

    def reset(self):
        """Begins an episode: forgets what is planned."""
        self._plan = []

    def __call__(self, observation=None, noise=None, **others):
        """The action of this step; where the policy plans several at once, the next one of its plan."""
        if not self._plan:
            self._plan = list(np.atleast_2d(self.decide(observation, noise, **others)))
        return self._plan.pop(0)

    def decide(self, observation=None, noise=None, **others):
        """The action ``(d,)``, or the plan ``(C, d)``, for an observation; ``noise`` where the policy takes it."""
        values = {**self._constants, "observation": observation, "noise": noise, **others}
        for name, wanted in self.inputs.items():
            if name == "noise" and noise is None:
                values[name] = self._random.standard_normal(wanted["shape"])
            values[name] = np.asarray(values[name], wanted["dtype"]).reshape(wanted["shape"])
            if not np.isfinite(values[name]).all():
                raise ValueError(f"{name}: it holds NaN or infinity, from which no action follows.")
        with np.errstate(all="ignore"):
            for function, arguments, result, parameters in self._steps:
                values[result] = function(*[values[argument] for argument in arguments], **parameters)
        return values[self._output]
