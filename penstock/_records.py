"""Frozen dataclasses that are pytrees, for what is made anew at every control step on the host.

`equinox.Module` does the same and checks more: making one takes 10 to 25 microseconds, which is as long as a step of
MuJoCo. Here it takes about one. Modules with weights are Equinox's. `jax.tree_util.register_dataclass` is as quick, but
puts leaves back through the constructor, whose annotations tests check; those of a transformed tree need not be arrays.
"""

import dataclasses
from typing import TypeVar, dataclass_transform

import jax

C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, eq_default=False)
def pytree_record(cls: C) -> C:
    """Makes a frozen dataclass of a class, and registers it as a pytree whose leaves are found by field names.

    Raises:
        TypeError: where a class is derived from it, which JAX would take for a single leaf.
    """
    made = dataclasses.dataclass(frozen=True, eq=False)(cls)
    names = tuple(field.name for field in dataclasses.fields(made))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

    def flatten(record):
        return tuple([getattr(record, name) for name in names]), None

    def flatten_with_keys(record):
        return tuple([(key, getattr(record, name)) for key, name in zip(keys, names, strict=True)]), None

    def unflatten(_, leaves):
        record = object.__new__(made)  # leaves need not be arrays here
        record.__dict__.update(zip(names, leaves, strict=True))
        return record

    def refuse(derived):
        raise TypeError(
            f"class {derived.__name__}({made.__name__}): records can't be extended. Give your class its own fields."
        )

    setattr(made, "__init_subclass__", classmethod(refuse))  # noqa: B010  no checker takes it for a method of this class
    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made
