"""What an agent remembers between two control steps: the plan that it follows, and the memory of a recurrent cell."""

from typing import NamedTuple

from jaxtyping import Array, Float

from penstock._types import PerEnvFlag
from penstock.networks.recurrence import cleared
from penstock.policies.planning import Plan


class Memory(NamedTuple):
    """Memories of N environments.

    Attributes:
        plan: chunks that are under way.
        hidden: of the recurrent cell; ``(N, 0)`` where there is none.
    """

    plan: Plan
    hidden: Float[Array, "N M"]

    def after(self, done: PerEnvFlag) -> "Memory":
        """The memory after the world has moved on: environments that were reset need a new plan, and know nothing."""
        return Memory(self.plan.after(done), cleared(self.hidden, done))
