"""Settings by composition: fields of one's own, and parts that bring theirs. From outside, all have one flat namespace.

A configuration is a frozen dataclass that derives from `Settings`. A field whose value is a `Part` brings the fields of
that part; a `Choice` is a part of which there are several kinds, and its own field of the part's name says which. So
``policy = flow`` brings ``flow_steps``, and ``policy = gaussian`` has no such setting: what would do nothing cannot be
expressed. Of an `Alternative` the field that is named says which kind it is: ``n_step`` or ``chunk_length``. Command
lines, presets and ``config.json`` know flat names only.
"""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from penstock._errors import ConfigurationError, require, suggest
from penstock._field_types import convert_fields

S = TypeVar("S", bound="Settings")


class Part:
    """A group of settings that belongs to something of its own: a policy, a critic, an optimiser."""


class Choice(Part, abc.ABC):
    """A part of which there are several kinds. Its field of the part's name holds the name of the kind."""

    @classmethod
    @abc.abstractmethod
    def kinds(cls) -> Mapping[str, "Choice"]:
        """The kinds there are, by name, with default values."""

    @classmethod
    def kind(cls, field: str, name: str) -> "Choice":
        """The kind of this name, with default values; may find more than `kinds` lists.

        Args:
            field: the part, for messages.
            name: of the kind.

        Raises:
            ConfigurationError: there is none.
        """
        kinds = cls.kinds()
        if name not in kinds:
            told = suggest(str(name), kinds)
            names = f" Known names: {', '.join(sorted(kinds))}."
            raise ConfigurationError(f"{field} = {name!r}: unknown.{told.removesuffix(names)}{names}")
        return kinds[name]


class Alternative(Part, abc.ABC):
    """A part of which there are several kinds without a field in common: whichever is named says which kind it is."""

    @classmethod
    @abc.abstractmethod
    def kinds(cls) -> "tuple[Alternative, ...]":
        """The kinds there are, with default values."""

    def told_by(self, names: Iterable[str]) -> "Alternative":
        """The kind to which the last of these names belongs that belongs to one; without any, this one."""
        kind = self
        for name in names:
            kind = next((other for other in self.kinds() if name in _names(other)), kind)
        return self if type(kind) is type(self) else kind


class Settings:
    """Base of configurations; subclasses are frozen dataclasses."""

    @classmethod
    def of(cls: type[S], **flat: Any) -> S:
        """Makes a configuration from flat names. Lists become tuples, whole numbers floats; nothing else changes.

        Raises:
            ConfigurationError: a name that is unknown, or that does nothing beside the others; a value of the wrong
                type, or out of range.
        """
        return cls._build(flat, "")

    @classmethod
    def preset(cls: type[S], values: Mapping[str, Any], **flat: Any) -> S:
        """`of`, on top of values that are meant for many: those of them that have no place here are left out."""
        flat = cls.spelled(flat)
        return cls.of(**{**cls.applicable(values, flat), **flat})

    former: ClassVar[Mapping[str, str]] = {}
    """Names that settings had in earlier versions, each with a sentence that says what to do now."""
    switches: ClassVar[Mapping[str, str]] = {}
    """Other spellings: names that are true or false, each with the setting that is None where they are false."""

    @classmethod
    def spelled(cls, flat: Mapping[str, Any]) -> dict[str, Any]:
        """The same values with settings in place of `switches`.

        Raises:
            ConfigurationError: a switch that is neither true nor false, or contradicts its setting.
        """
        rest = dict(flat)
        for switch, setting in cls.switches.items():
            if switch not in rest:
                continue
            on = rest.pop(switch)
            require(isinstance(on, bool), switch, on, "must be true or false")
            if setting in rest and on == (rest[setting] is None):
                raise ConfigurationError(
                    f"{setting} = {rest[setting]!r}: contradicts {switch} = {on}. Leave one of the two out."
                )
            if not on:
                rest[setting] = None
        return rest

    @classmethod
    def read(cls: type[S], flat: Mapping[str, Any], where: str) -> S:
        """`of`, with messages that begin with where the settings come from."""
        return cls._build(flat, where)

    @classmethod
    def _build(cls, flat, where):
        rest = cls.spelled(flat)
        parts = cls._parts(flat)
        made = {}
        for name, part in parts.items():
            if isinstance(part, Choice):
                rest.pop(name, None)  # the kind knows its own name, which may be longer than the one that chose it
            made[name] = _changed_part(part, {field: rest.pop(field) for field in _names(part) if field in rest}, where)
        own = _own_names(cls)
        for name in rest:
            if name not in own:
                raise ConfigurationError(cls._no_such(name, parts, where))
        return cls(**convert_fields(rest, cls, where), **made)

    @classmethod
    def _parts(cls, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Parts with default values, of the kinds that the flat names choose."""
        parts = {}
        for name, default in _part_fields(cls).items():
            if isinstance(default, Choice) and name in flat and flat[name] != getattr(default, name):
                default = default.kind(name, flat[name])
            elif isinstance(default, Alternative):
                default = default.told_by(flat)
            parts[name] = default
        return parts

    @classmethod
    def applicable(cls, values: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``values`` that exist beside the kinds that both choose (``chosen`` wins), for presets of many arms.

        A name that no kind of any part has stays, so that it is refused later.
        """
        parts = cls._parts({**values, **chosen})
        here = {*parts, *_own_names(cls), *(field for part in parts.values() for field in _names(part))}
        return {name: value for name, value in values.items() if name in here or name not in cls.all_names()}

    @classmethod
    def all_names(cls) -> set[str]:
        """Flat names of all kinds together, and of parts that a base class has and this one leaves out."""
        parts = [*cls.all_parts(), *_absent_parts(cls).values()]
        return set(_own_names(cls)).union(*map(_names, parts))

    @classmethod
    def choices(cls) -> list[str]:
        """Names of the parts of which there are several kinds."""
        return [name for name, default in _part_fields(cls).items() if isinstance(default, Choice)]

    @classmethod
    def choosing(cls, names: Iterable[str]) -> dict[str, Any]:
        """Those of ``names`` that choose the kind of an `Alternative`, with default values."""
        alternatives = [part for part in _part_fields(cls).values() if isinstance(part, Alternative)]
        values = {name: getattr(kind, name) for part in alternatives for kind in part.kinds() for name in _names(kind)}
        return {name: values[name] for name in names if name in values}

    @classmethod
    def all_parts(cls) -> Iterator[Part]:
        """Every part that a configuration may have, of every kind, with default values."""
        for name, default in _part_fields(cls).items():
            yield default
            if isinstance(default, Choice):
                yield from (kind for key, kind in default.kinds().items() if key != getattr(default, name))
            if isinstance(default, Alternative):
                yield from (kind for kind in default.kinds() if type(kind) is not type(default))

    @classmethod
    def _no_such(cls, name, parts, where):
        for part, chosen in parts.items():
            if isinstance(chosen, Alternative) and any(name in _names(kind) for kind in chosen.kinds()):
                return f"{where}{name}: does nothing beside {' and '.join(_names(chosen))}. Leave one of the two out."
            if not isinstance(chosen, Choice):
                continue
            owners = [kind for kind, settings in chosen.kinds().items() if name in _names(settings)]
            if owners:
                return (
                    f"{where}{name}: does nothing with {part} = {getattr(chosen, part)!r}; it belongs to "
                    f"{' and '.join(owners)}. Leave it out, or choose another {part}."
                )
        for part, absent in _absent_parts(cls).items():
            if name in _names(absent):
                return f"{where}{name}: belongs to a {part}, and there is none here. Leave it out."
        if name in cls.former:
            return f"{where}{name}: is no setting any more. {cls.former[name]}"
        known = {*_own_names(cls), *(field for part in parts.values() for field in _names(part))}
        return f"{where or 'settings: '}unknown field '{name}'.{suggest(name, known)}"

    def flat(self) -> dict[str, Any]:
        """All settings by flat names, in the order of their declaration."""
        values: dict[str, Any] = {}
        for field in _names(type(self)):
            value = getattr(self, field)
            if isinstance(value, Part):
                values |= {name: getattr(value, name) for name in _names(value)}
            elif field in _own_names(type(self)):
                values[field] = value
        return values

    def changed(self: S, **flat: Any) -> S:
        """The same settings with some flat names replaced. Another kind of a part brings its default values."""
        flat = self.spelled(flat)
        mine, parts = self.flat(), self._parts(flat)
        for name, part in parts.items():
            now = getattr(self, name)
            if isinstance(part, Alternative):
                other = type(now.told_by(flat)) is not type(now)
            else:
                other = name in flat and getattr(now, name) != getattr(part, name)
            if other:
                mine = {field: value for field, value in mine.items() if field not in _names(now)}
        return self._build({**mine, **flat}, "")


def _changed_part(part: Any, given: Mapping[str, Any], where: str) -> Part:
    return dataclasses.replace(part, **convert_fields(given, type(part), where)) if given else part


def _names(settings: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)] if settings is not None else []


def _own_names(cls: type[Any]) -> list[str]:
    """Fields that hold a value; not those that hold a part, or None in place of the part of a base class."""
    return [name for name in _names(cls) if not any(name in _part_fields(base) for base in cls.__mro__)]


def _absent_parts(cls: type[Any]) -> dict[str, Part]:
    """Parts of base classes in whose place a configuration has None."""
    inherited = {name: part for base in cls.__mro__ for name, part in _part_fields(base).items()}
    return {name: part for name, part in inherited.items() if name not in _part_fields(cls)}


def _part_fields(cls: type[Any]) -> dict[str, Any]:
    """Fields of a configuration that hold a part, with their default values."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {field.name: field.default for field in fields if isinstance(field.default, Part)}
