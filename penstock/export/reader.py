"""Runs a policy that Penstock exported to a .npz file. Needs NumPy alone.

policy = Policy("policy.npz")   # policy.reset() when an episode begins
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
        self.metadata, program = (json.loads(self._constants.pop(name).item()) for name in ("metadata", "program"))
        self.inputs, self._outputs = program["inputs"], program["outputs"]
        self._steps, self._random = [], np.random.default_rng(seed)
        for name, arguments, result, given in program["instructions"]:
            parameters = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
            self._steps.append((OPERATIONS.get(name) or getattr(np, name), arguments, result, parameters))
        self.reset()

    def reset(self):
        """Begins an episode: forgets what is planned, what was seen, and what is remembered."""
        self._plan, self._seen, self.memory = [], [], np.zeros(self.inputs.get("memory", {"shape": 0})["shape"])

    def __call__(self, observation=None, **others):
        """The action of this step, of what is observed now; the next one, where the policy plans several at once."""
        length = self.metadata.get("observation", {}).get("history", {"length": 1})["length"]
        now = np.array(observation if length == 1 else finite("observation", observation))  # not to be remembered, else
        self._seen = [*self._seen[1:], now] if self._seen else [now] * length
        observation = observation if length == 1 else np.concatenate(self._seen)
        self._plan = self._plan or list(np.atleast_2d(self.decide(observation, **others)))
        return self._plan.pop(0)

    def decide(self, observation=None, **others):
        """The action ``(d,)``, or the plan ``(C, d)``, of a history; ``others``: points, pixels, noise, memory."""
        if others.keys() - self.inputs.keys():
            raise TypeError(f"This policy takes {list(self.inputs)}, and not {list(others)}.")
        given, values = {"observation": observation, "memory": self.memory, **others}, dict(self._constants)
        for name, wanted in self.inputs.items():
            if name == "noise" and given.get(name) is None:
                given[name] = self._random.standard_normal(wanted["shape"])
            values[name] = finite(name, np.asarray(given.get(name), wanted["dtype"]))
            if values[name].shape != tuple(wanted["shape"]):
                raise ValueError(f"{name}: it has the shape {values[name].shape}, and must have {wanted['shape']}.")
        with np.errstate(all="ignore"):
            for function, arguments, result, parameters in self._steps:
                values[result] = function(*[values[argument] for argument in arguments], **parameters)
        made = {name: finite(name, values[value]) for name, value in self._outputs.items()}
        self.memory = made.get("next_memory")
        return made["action"]
