"""Settings by composition: one flat namespace outside, kinds inside, and nothing that does nothing."""

import dataclasses

import pytest

from penstock._errors import ConfigurationError, require
from penstock._settings import Alternative, Choice, Part, Settings


@dataclasses.dataclass(frozen=True)
class Engine(Choice):
    engine: str = ""

    @classmethod
    def kinds(cls):
        return {"steam": Steam(), "electric": Electric()}

    @classmethod
    def kind(cls, field, name):
        if name not in cls.kinds():
            raise ConfigurationError(f"{field} = {name!r}: unknown.")
        return cls.kinds()[name]


@dataclasses.dataclass(frozen=True)
class Steam(Engine):
    engine: str = "steam"
    coal: float = 2.0
    wheels: tuple[int, ...] = (4, 4)

    def __post_init__(self):
        require(self.coal > 0, "coal", self.coal, "must be greater than 0")


@dataclasses.dataclass(frozen=True)
class Electric(Engine):
    engine: str = "electric"
    volts: float = 15.0


@dataclasses.dataclass(frozen=True)
class Brakes(Part):
    force: float = 1.0


@dataclasses.dataclass(frozen=True)
class Train(Settings):
    cars: int = 3
    engine: Engine = Steam()
    brakes: Brakes = Brakes()


@dataclasses.dataclass(frozen=True)
class Coasting(Train):
    brakes: None = None


class Load(Alternative):
    @classmethod
    def kinds(cls):
        return Freight(), Passengers()


@dataclasses.dataclass(frozen=True)
class Freight(Load):
    tons: int = 1


@dataclasses.dataclass(frozen=True)
class Passengers(Load):
    seats: int = 50


@dataclasses.dataclass(frozen=True)
class Loaded(Settings):
    cars: int = 3
    load: Load = Freight(tons=7)


def test_the_field_that_is_named_chooses_between_alternatives():
    assert Loaded.of().flat() == {"cars": 3, "tons": 7} and Loaded.of(cars=1).load == Freight(7)
    seated = Loaded.of(seats=8)
    assert seated.flat() == {"cars": 3, "seats": 8} and Loaded.of(**seated.flat()) == seated
    assert seated.changed(cars=1) == Loaded(1, Passengers(8)) and seated.changed(seats=9).load == Passengers(9)
    assert seated.changed(tons=2) == Loaded(3, Freight(2)) and Loaded.of(tons=2).changed(seats=4).load == Passengers(4)
    assert Loaded.preset({"tons": 4, "cars": 1}, seats=5) == Loaded(1, Passengers(5))
    assert Loaded.all_names() == {"cars", "tons", "seats"}
    assert Loaded.choosing(["seats", "cars"]) == {"seats": 50}
    for both in ({"tons": 1, "seats": 2}, {"seats": 2, "tons": 1}):
        with pytest.raises(ConfigurationError, match=r"^(tons|seats): does nothing beside (tons|seats)\. Leave one of"):
            Loaded.of(**both)


def test_flat_names_make_parts_and_come_back():
    train = Train.of(cars=5, coal=1, force=0.5, wheels=[2, 8])
    assert train == Train(5, Steam(coal=1.0, wheels=(2, 8)), Brakes(0.5))
    assert train.flat() == {"cars": 5, "engine": "steam", "coal": 1.0, "wheels": (2, 8), "force": 0.5}
    assert Train.of(**train.flat()) == train and Train.of() == Train()


def test_a_kind_brings_its_own_settings_and_defaults():
    assert Train.of(engine="electric").engine == Electric()
    assert Train.of(engine="electric", volts=3).flat() == {"cars": 3, "engine": "electric", "volts": 3.0, "force": 1.0}
    assert Train.of(coal=1.0).changed(engine="electric").engine == Electric()
    assert Train.of(coal=1.0).changed(cars=7) == Train.of(coal=1.0, cars=7)
    with pytest.raises(ConfigurationError, match=r"^engine = 'diesel': unknown"):
        Train.of(engine="diesel")


def test_what_does_nothing_cannot_be_expressed():
    told = (
        r"^volts: does nothing with engine = 'steam'; it belongs to electric\. Leave it out, or choose another engine"
    )
    with pytest.raises(ConfigurationError, match=told):
        Train.of(volts=3.0)
    with pytest.raises(ConfigurationError, match=r"^here: force: belongs to a brakes, and there is none"):
        Coasting.read({"force": 1.0}, "here: ")
    with pytest.raises(ConfigurationError, match=r"unknown field 'car'.* Did you mean 'cars'"):
        Train.of(car=1)
    assert Coasting.of().flat() == {"cars": 3, "engine": "steam", "coal": 2.0, "wheels": (4, 4)}


def test_types_and_ranges_are_those_of_the_parts():
    with pytest.raises(ConfigurationError, match=r"^coal = 'much': must be a number"):
        Train.of(coal="much")
    with pytest.raises(ConfigurationError, match=r"^coal = -1\.0: must be greater"):
        Train.of(coal=-1)
    with pytest.raises(ConfigurationError, match=r"^from: cars = 'x': must be a whole number"):
        Train.read({"cars": "x"}, "from: ")


def test_presets_give_each_kind_what_it_has():
    preset = {"coal": 5.0, "volts": 4.0, "cars": 2, "nonsense": 1}
    assert Train.applicable(preset, {}) == {"coal": 5.0, "cars": 2, "nonsense": 1}
    assert Train.applicable(preset, {"engine": "electric"}) == {"volts": 4.0, "cars": 2, "nonsense": 1}
    assert Coasting.applicable({"force": 2.0, "cars": 1}, {}) == {"cars": 1}
    assert Train.preset({"coal": 5.0, "volts": 4.0}, engine="electric", cars=1) == Train(1, Electric(volts=4.0))
    assert Train.all_names() == {"cars", "engine", "coal", "wheels", "volts", "force"}
