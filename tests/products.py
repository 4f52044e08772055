"""The matrix products of a traced program."""

import math

import jax


def products(jaxpr):
    """Types of the two factors and the shortest side of every product, also within loops and branches."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            x, y = (variable.aval for variable in equation.invars)
            (contracted, _), (along, _) = equation.params["dimension_numbers"]
            inner = math.prod(x.shape[axis] for axis in contracted)
            both = inner * math.prod(x.shape[axis] for axis in along)
            found.append(((str(x.dtype), str(y.dtype)), min(inner, x.size // both, y.size // both)))
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")):
            if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                found += products(getattr(value, "jaxpr", value))
    return found
