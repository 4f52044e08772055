"""A learner under the functional driver, one seed at a time, for tests that look inside an iteration."""

import jax.numpy as jnp

from penstock.algorithms.keys import purpose_key
from penstock.algorithms.learner import Clock, Learner, results
from penstock.algorithms.pathwise import Now
from penstock.training.drivers.functional import begin, iterate
from penstock.training.drivers.state import RunState


class Driven:
    """The learner with the methods of its driver. Everything else is the learner's own.

    ``init(key)`` and ``step(state)`` are a run's; ``learned(key)``, ``gradient_step`` and ``return_gradient`` the
    learner's parts, with metrics as they are logged.
    """

    def __init__(self, learner: Learner):
        self.__dict__["learner"] = learner

    def __setattr__(self, name, value):
        setattr(self.learner, name, value)

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def init(self, key):
        return begin(self.learner, key)

    def step(self, state):
        state, metrics, _ = iterate(self.learner, state)
        return state, results(metrics)

    def agent(self, state):
        return self.learner.agent(state.learned if isinstance(state, RunState) else state)

    def init_learned(self, key):
        return self.learner.init(key)

    def gradient_step(self, learned, batch, key, count):
        learned, metrics = self.learner.gradient_step(learned, batch, key, count)
        return learned, results(metrics)

    def learn(self, learned, batch, key, count):
        zero = jnp.zeros((), jnp.int32)
        updated = self.learner.update_from_batch(learned, batch, key, Clock(zero, zero, count))
        return updated.learned, results(updated.metrics)

    def measure(self, state):
        key = purpose_key(state.key, state.clock.update, "measure")
        return self.learner.measure(state.learned, state.world.observation, key)

    def remember(self, state, window, metrics):
        return self.learner.remember(Now(state.learned, window, state.key, state.clock, metrics, {}))

    def regularizer_gradients(self, state, window, metrics):
        return self.learner.regularizer_gradients(Now(state.learned, window, state.key, state.clock, metrics, {}))

    def return_gradient(self, state):
        gradient, window, world, metrics = self.learner.return_gradient(
            state.learned, state.world, state.key, state.clock
        )
        cut, lost = window.gradient_events.sum(axis=(0, 2))
        events = {"world/diverged": window.diverged.sum(), "world/gradients_cut": cut, "world/gradients_lost": lost}
        return gradient, window, world, metrics | events
