"""Ground contact at the plane y = 0, as an update of the velocities within one substep."""

import abc
import dataclasses
import math
from typing import cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._errors import require
from penstock.physics.layout import Component


class Contact(abc.ABC):
    """A law of contact with the ground."""

    @abc.abstractmethod
    def apply(
        self,
        y: Component,
        velocity: tuple[Component, Component, Component],
        mass: Float[Array, "V 1"],
        dt: float,
    ) -> tuple[Component, Component, Component]:
        """Velocities after contact.

        Args:
            y: heights ``(V, N)`` in metres.
            velocity: three components ``(V, N)`` in m/s, already advanced by elastic forces and gravity.
            mass: lumped masses in kg.
            dt: substep in seconds.
        """

    @abc.abstractmethod
    def max_timestep(self, masses: np.ndarray) -> float:
        """Longest stable substep (seconds) of a vertex on the contact spring alone."""


@dataclasses.dataclass(frozen=True)
class MassScaledContact(Contact):
    """Penalty contact whose stiffness is proportional to the mass of the vertex: ``ke_i = m_i wc^2``.

    With a constant stiffness the lightest vertex limits the time step, and the *gradient* of a rollout overflows
    long before the rollout itself looks wrong. Here all vertices share one limit, ``wc dt < 2``.

    With depth ``c = max(radius - y, 0)`` and ``s = min(ramp c, 1)`` a substep does

        v_y <- (v_y + dt wc^2 c) / (1 + dt gc s)                        (explicit)
        v_y <- (v_y + dt wc^2 c) / (1 + dt gc s + dt^2 wc^2 s)          (implicit)
        v_t <- v_t / (1 + dt mu wc^2 c / sqrt(|v_t|^2 + eps^2))

    Damping acts while separating too. Friction is smooth and stable for every step, at the price of a slow creep in
    place of true sticking.

    Attributes:
        frequency: ``wc`` in 1/s. Keep ``wc dt <= 1.4``.
        damping: ``gc`` in 1/s, normal damping at full contact.
        friction: coefficient ``mu`` of the regularised Coulomb friction.
        slip_speed: ``eps`` in m/s below which friction becomes viscous.
        ramp: 1/m, how fast normal damping sets in with depth (full at depth ``1/ramp``).
        radius: height in metres at which contact begins.
        implicit: treat the normal spring implicitly. Removes the chatter of light feet where elastic, damping and
            contact forces together are beyond the stable step though each alone is within it.
    """

    frequency: float = 350.0
    damping: float = 60.0
    friction: float = 0.9
    slip_speed: float = 1e-3**0.5
    ramp: float = 500.0
    radius: float = 0.0
    implicit: bool = False

    def __post_init__(self):
        """Checks the ranges."""
        for name in ("frequency", "damping", "friction", "ramp", "radius"):
            require(getattr(self, name) >= 0, f"contact.{name}", getattr(self, name), "must not be negative")
        require(self.slip_speed > 0, "contact.slip_speed", self.slip_speed, "must be positive (m/s)")

    def apply(
        self,
        y: Component,
        velocity: tuple[Component, Component, Component],
        mass: Float[Array, "V 1"],
        dt: float,
    ) -> tuple[Component, Component, Component]:
        """See `Contact.apply`. Mass has been divided out."""
        del mass
        vx, vy, vz = velocity
        depth = jnp.maximum(self.radius - y, 0.0)
        push = self.frequency**2 * depth
        resistance = dt * self.damping + (dt * self.frequency) ** 2 * self.implicit
        vy = (vy + dt * push) / (1.0 + resistance * jnp.minimum(self.ramp * depth, 1.0))
        speed = jnp.sqrt(vx * vx + vz * vz + self.slip_speed**2)
        brake = 1.0 / (1.0 + dt * self.friction * push / speed)
        return vx * brake, vy, vz * brake

    def max_timestep(self, masses: np.ndarray) -> float:
        """``2 / wc``; infinite if implicit. See `Contact.max_timestep`."""
        del masses
        return math.inf if self.implicit or self.frequency == 0 else 2 / self.frequency


@dataclasses.dataclass(frozen=True)
class ConstantContact(Contact):
    """Penalty contact with one stiffness for all vertices, as published for the soft jumper.

    With depth ``c = max(radius - y, 0)``: normal force ``f_n = ke c - kd min(v_y, 0)`` where ``c > 0``; tangential
    force ``min(kf |v_t|, mu f_n)`` against the slip. The damping and friction terms are taken implicitly (they only
    divide velocities), because on the lightest vertices ``kf`` alone would limit an explicit substep to 0.4 ms.

    Attributes:
        stiffness: ``ke``, N/m.
        damping: ``kd``, N s/m, acts while approaching.
        slip_damping: ``kf``, N s/m.
        friction: Coulomb coefficient ``mu``.
        radius: height in metres at which contact begins.
    """

    stiffness: float = 2e3
    damping: float = 0.1
    slip_damping: float = 10.0
    friction: float = 0.7
    radius: float = 0.05

    def __post_init__(self):
        """Checks the ranges."""
        for field in dataclasses.fields(self):
            require(getattr(self, field.name) >= 0, f"contact.{field.name}", getattr(self, field.name), "must be >= 0")

    def apply(
        self,
        y: Component,
        velocity: tuple[Component, Component, Component],
        mass: Float[Array, "V 1"],
        dt: float,
    ) -> tuple[Component, Component, Component]:
        """See `Contact.apply`."""
        vx, vy, vz = velocity
        depth = jnp.maximum(self.radius - y, 0.0)
        touching = (depth > 0).astype(y.dtype)
        normal = self.stiffness * depth - self.damping * touching * jnp.minimum(vy, 0.0)
        approach = touching * (vy < 0).astype(y.dtype)
        vy = (vy + dt * self.stiffness * depth / mass) / (1.0 + dt * self.damping * approach / mass)
        speed = jnp.sqrt(vx * vx + vz * vz + 1e-12)
        slip = touching * jnp.minimum(self.slip_damping, self.friction * normal / speed)
        brake = 1.0 / (1.0 + dt * slip / mass)
        return vx * brake, vy, vz * brake

    def max_timestep(self, masses: np.ndarray) -> float:
        """``2 sqrt(m_min / ke)``. See `Contact.max_timestep`."""
        return 2 * math.sqrt(cast(float, masses.min()) / self.stiffness) if self.stiffness > 0 else math.inf
