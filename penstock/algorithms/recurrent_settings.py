"""What policy and critic of on-policy algorithms remember: nothing, or what a GRU or an LSTM keeps.

Who remembers nothing may learn from mirrored copies as well: what a memory holds has no mirror (rsl_rl refuses the
two together likewise).
"""

import dataclasses
from collections.abc import Mapping

from penstock._errors import require
from penstock._settings import Choice
from penstock._types import Key
from penstock.algorithms.symmetry import Mirror, SymmetrySettings
from penstock.networks import Recurrence
from penstock.observation import ObservationSpec


@dataclasses.dataclass(frozen=True)
class RecurrentSettings(Choice):
    """Base of all kinds."""

    recurrent: str = ""
    """Memory of policy and critic: none, gru or lstm, a cell between the normalised observation and the networks."""

    @property
    def remembers(self) -> bool:
        """Whether there is a cell."""
        return False

    def build(self, key: Key, inputs: int) -> Recurrence | None:
        """Draws a cell; None where there is none.

        Args:
            key: key of the weights.
            inputs: number of features that go in.
        """
        del key, inputs
        return None

    def mirror(self, spec: ObservationSpec, action_size: int) -> Mirror | None:
        """The mirror of a world, in whose copies everything is learned once more; None for none."""
        del spec, action_size
        return None

    @classmethod
    def kinds(cls) -> Mapping[str, "RecurrentSettings"]:
        """See `Choice.kinds`."""
        return RECURRENT


@dataclasses.dataclass(frozen=True)
class MemorylessSettings(SymmetrySettings, RecurrentSettings):
    """No recurrence: policy and critic see what is observed now. With what a mirror does, if there is one."""

    recurrent: str = "none"
    """Memory of policy and critic: none, gru or lstm, a cell between the normalised observation and the networks."""


@dataclasses.dataclass(frozen=True)
class GRUSettings(RecurrentSettings):
    """A gated recurrent unit."""

    recurrent: str = "gru"
    """Memory of policy and critic: none, gru or lstm, a cell between the normalised observation and the networks."""
    recurrent_size: int = 256
    """H, numbers that a recurrent cell gives to the networks behind it. rsl_rl and SB3-contrib: 256."""

    def __post_init__(self):
        require(self.recurrent_size >= 1, "recurrent_size", self.recurrent_size, "must be at least 1")

    @property
    def remembers(self) -> bool:
        """True."""
        return True

    def build(self, key: Key, inputs: int) -> Recurrence:
        """See `RecurrentSettings.build`."""
        return Recurrence(key, inputs, self.recurrent_size, "gru")


@dataclasses.dataclass(frozen=True)
class LSTMSettings(GRUSettings):
    """A long short-term memory."""

    recurrent: str = "lstm"
    """Memory of policy and critic: none, gru or lstm, a cell between the normalised observation and the networks."""

    def build(self, key: Key, inputs: int) -> Recurrence:
        """See `RecurrentSettings.build`."""
        return Recurrence(key, inputs, self.recurrent_size, "lstm")


RECURRENT: dict[str, RecurrentSettings] = {
    settings.recurrent: settings for settings in (MemorylessSettings(), GRUSettings(), LSTMSettings())
}
"""Kinds by name."""
