"""What reads JAX's programs needs to know of their form, which changes between versions of JAX."""

from collections.abc import Mapping
from typing import Any

INNER_PROGRAM = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Operations that are one program, and the parameter that holds it. Derivatives are taken: their rules can go."""

REMATERIALIZED = {"remat2": "jaxpr", "checkpoint": "jaxpr"}
"""The same, of programs that are computed once more in a backward pass."""


def counts_of_scan(parameters: Mapping[str, Any]) -> tuple[int, int]:
    """How many inputs of a scan are constant and how many carried."""
    if "num_consts" in parameters:  # JAX before 0.11
        return parameters["num_consts"], parameters["num_carry"]
    constants, carried, _ = parameters["ft_in"].unpack()
    return len(constants), len(carried)
