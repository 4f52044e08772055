"""Exported policies as files: NumPy, ONNX and StableHLO. Writing them, and opening one to act by it.

A file holds all that the policy needs at run time: normaliser, networks, the loop of the flow, and the scaling of
actions; and what people need to know to use it (`penstock.export.metadata`). It needs none of Penstock to run.
"""

import abc
import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jaxtyping import Float

import penstock
from penstock._errors import ConfigurationError, PenstockError, suggest
from penstock._files import replacing, write_text
from penstock._processor import plain_forms
from penstock.export import reader
from penstock.export._seal import require_seal, sealed
from penstock.export.decision import MEMORY, NEXT_MEMORY, NOISE, Decision
from penstock.export.program import Program, program_sha256
from penstock.worlds.history import begun, shifted

FORMAT = "penstock-policy"
FORMAT_VERSION = 1

Target = Literal["numpy", "onnx", "stablehlo"]
"""What a policy is exported to."""

Memory = Float[np.ndarray, "M"] | None
"""What a recurrent policy remembers."""

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Of a StableHLO file."""


class PolicyFile(abc.ABC):
    """An exported policy, opened: made with its path.

    Attributes:
        path: the file.
        metadata: see `penstock.export.metadata.describe`.
        inputs: shape and dtype of each input, by name.
    """

    suffix: ClassVar[str]
    runtime: ClassVar[str]
    """What runs it, for people."""

    path: Path
    metadata: dict[str, Any]
    inputs: dict[str, tuple[tuple[int, ...], str]]

    @abc.abstractmethod
    def __init__(self, path: Path): ...

    @abc.abstractmethod
    def outputs(self, inputs: Mapping[str, np.ndarray]) -> tuple[Float[np.ndarray, "..."], Memory]:
        """The action ``(d,)``, or the plan ``(C, d)``, of one decision, and what is remembered behind it.

        Args:
            inputs: all of them, by name.
        """

    def decide(self, inputs: Mapping[str, np.ndarray]) -> Float[np.ndarray, "..."]:
        """The first of `outputs`."""
        return self.outputs(inputs)[0]

    def no_memory(self) -> Memory:
        """What is remembered when an episode begins; None of a policy that remembers nothing."""
        return np.zeros(self.inputs[MEMORY][0], np.float32) if MEMORY in self.inputs else None

    @property
    def history(self) -> int:
        """K: of how many control steps it takes observation vectors, as one."""
        return self.metadata.get("observation", {}).get("history", {}).get("length", 1)

    @property
    def takes_noise(self) -> bool:
        """Whether noise is one of the inputs."""
        return NOISE in self.inputs


def write(decision: Decision, metadata: Mapping[str, Any], path: Path, target: Target) -> list[Path]:
    """Writes a policy to a file, whole or not at all. The same policy gives the same bytes on every machine.

    Args:
        decision: what is exported.
        metadata: what people need to know.
        path: the file.
        target: its kind.

    Returns:
        The files that were written: the policy, and for NumPy the module that reads it.

    Raises:
        CapabilityError: the policy uses an operation that cannot be exported so.
        MissingExtraError: ONNX is not installed.
        OutputError: the file cannot be written.
    """
    if path.suffix != FORMATS[target].suffix:
        raise ConfigurationError(f"output = '{path}': a file for {target} ends in {FORMATS[target].suffix}. Rename it.")
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, **metadata}
    match target:
        case "numpy":
            content = _numpy_bytes(decision.program(), metadata)
        case "onnx":
            from penstock.export.onnx import onnx_bytes

            content = onnx_bytes(decision.program(), metadata)
        case "stablehlo":
            content = _stablehlo_bytes(decision, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    if target != "numpy":
        return [path]
    return [path, write_text(path.with_name(READER_NAME), Path(reader.__file__).read_text(encoding="utf-8"))]


READER_NAME = "penstock_policy.py"
"""The module that reads NumPy files, beside them."""


def open_policy(path: Path | str) -> PolicyFile:
    """Opens an exported policy of any kind, and checks that it is whole.

    Raises:
        PenstockError: there is no such file, it is damaged, it is none of ours, or a package is missing.
    """
    path = Path(path)
    kinds = {kind.suffix: kind for kind in FORMATS.values()}
    if path.suffix not in kinds:
        hint = suggest(path.suffix, kinds) or f" They end in {', '.join(kinds)}."
        raise ConfigurationError(f"'{path}' is no file that `penstock export` writes.{hint}")
    if not path.is_file():
        raise PenstockError(f"'{path}': there is no such file. Write one with `penstock export RUN`.")
    zipped = zipfile.is_zipfile(path)
    if zipped != (path.suffix != OnnxFile.suffix):
        found, wanted = ("a", "no") if zipped else ("no", "one")
        raise PenstockError(
            f"'{path}' is {found} zip archive, and a {path.suffix} file is {wanted}: it is damaged, or has another's "
            "name. Export the run again."
        )
    try:
        opened = kinds[path.suffix](path)
        if opened.metadata.get("format") != FORMAT:
            raise ValueError("it is not one of Penstock's")
        version = opened.metadata.get("format_version")
    except PenstockError:
        raise
    except Exception as error:
        raise PenstockError(
            f"'{path}' cannot be read as an exported policy: {_first_line(error)}. Export the run again."
        ) from error
    if version != FORMAT_VERSION:
        raise PenstockError(
            f"'{path}' has format {version}; this Penstock {penstock.__version__} reads format {FORMAT_VERSION}. Use "
            "the Penstock that wrote it, or export the run again."
        )
    return opened


def _inputs(described: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each input, from their description in JSON."""
    return {name: (tuple(of["shape"]), of["dtype"]) for name, of in described.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


# ---------------------------------------------------------------------- NumPy


def _numpy_bytes(program: Program, metadata: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    told = sealed(metadata, program.sha256())
    arrays: dict[str, Any] = {"metadata": np.array(json.dumps(told)), "program": np.array(program.listing())}
    np.savez(buffer, allow_pickle=False, **arrays, **program.constants)  # what compresses it, differs between machines
    return buffer.getvalue()


class NumpyFile(PolicyFile):
    """A program and its constants in an ``.npz`` archive, read by the module `penstock.export.reader`."""

    suffix = ".npz"
    runtime = f"NumPy {np.__version__}"

    def __init__(self, path: Path):
        self.path = path
        with np.load(path, allow_pickle=False) as file:
            constants = {name: file[name] for name in file.files}
        metadata, listing = (constants.pop(name).item() for name in ("metadata", "program"))
        require_seal(json.loads(metadata), program_sha256(listing, constants))
        self._policy = reader.Policy(path)
        self.metadata = self._policy.metadata
        self.inputs = _inputs(self._policy.inputs)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> tuple[Float[np.ndarray, "..."], Memory]:
        """See `PolicyFile.outputs`."""
        try:
            return self._policy.decide(**inputs), self._policy.memory
        except ValueError as error:
            raise PenstockError(
                f"'{self.path}': {error} If what it was given is in order, the policy has diverged: train it anew with "
                "a lower learning rate, or export an earlier checkpoint."
            ) from error


# ---------------------------------------------------------------------- ONNX


class OnnxFile(PolicyFile):
    """An ONNX graph, run by ONNX Runtime on one thread."""

    suffix = ".onnx"
    runtime = "ONNX Runtime"

    def __init__(self, path: Path):
        from penstock.export.onnx import content_of, session

        self.path = path
        self.metadata, content = content_of(path)
        require_seal(self.metadata, content)
        self._session = session(path)
        kinds = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
        self.inputs = {one.name: (tuple(one.shape[1:]), kinds[one.type]) for one in self._session.get_inputs()}

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> tuple[Float[np.ndarray, "..."], Memory]:
        """See `PolicyFile.outputs`."""
        names = ["action", NEXT_MEMORY] if MEMORY in self.inputs else ["action"]
        action, *memory = self._session.run(names, {name: inputs[name][None] for name in self.inputs})
        return action[0], memory[0][0] if memory else None


# ---------------------------------------------------------------------- StableHLO

_MODULE, _TEXT, _METADATA = "exported.bin", "module.mlir.bc", "metadata.json"


def _stablehlo_bytes(decision: Decision, metadata: Mapping[str, Any]) -> bytes:
    with plain_forms():
        exported = jax.export.export(decision.jitted(), platforms=PLATFORMS)(*decision.inputs.values())
    inputs = {name: {"shape": list(s.shape), "dtype": np.dtype(s.dtype).name} for name, s in decision.inputs.items()}
    module = bytes(exported.serialize())
    told = sealed({**metadata, "inputs": inputs}, hashlib.sha256(module).hexdigest())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (
            (_METADATA, json.dumps(told)),
            (_MODULE, module),
            (_TEXT, exported.mlir_module_serialized),
        ):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_STORED)
    return buffer.getvalue()


class StableHloFile(PolicyFile):
    """A zip archive: the module as ``jax.export`` reads it, the same as StableHLO bytecode, and the metadata."""

    suffix = ".stablehlo"
    runtime = f"XLA, JAX {jax.__version__}"

    def __init__(self, path: Path):
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.metadata = json.loads(archive.read(_METADATA))
            module = archive.read(_MODULE)
        require_seal(self.metadata, hashlib.sha256(module).hexdigest())
        self._call = jax.jit(jax.export.deserialize(bytearray(module)).call)
        self.inputs = _inputs(self.metadata["inputs"])

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> tuple[Float[np.ndarray, "..."], Memory]:
        """See `PolicyFile.outputs`."""
        made = jax.device_get(self._call(*(inputs[name] for name in self.inputs)))
        return made if MEMORY in self.inputs else (made, None)


FORMATS: dict[Target, type[PolicyFile]] = {"numpy": NumpyFile, "onnx": OnnxFile, "stablehlo": StableHloFile}
"""Kinds of files."""


@dataclasses.dataclass
class Player:
    """Acts by an exported policy, step by step, for one environment.

    Attributes:
        file: the policy.
        random: where the noise comes from, if the policy takes any.
    """

    file: PolicyFile
    random: np.random.Generator

    def __post_init__(self):
        self.reset()

    def reset(self) -> None:
        """Begins an episode: forgets what is planned, what was seen, and what is remembered."""
        self._plan: list[np.ndarray] = []
        self._memory = self.file.no_memory()
        self._seen: np.ndarray | None = None

    def act(self, observation: Mapping[str, np.ndarray]) -> Float[np.ndarray, "d"]:
        """The action of this step, in the environment's units.

        Args:
            observation: its parts by name: observation, points, pixels; of this step alone, also where the policy sees
                a history.

        Raises:
            PenstockError: the observation, or the action that follows, is not finite.
        """
        for name, values in observation.items():
            if not np.isfinite(values).all():
                raise PenstockError(
                    f"{name}: it holds NaN or infinity, from which no action follows. Look at the sensor or the "
                    "simulator."
                )
        if self.file.history > 1:
            now = observation["observation"]
            seen = begun(now, self.file.history) if self._seen is None else shifted(self._seen, now)
            self._seen, observation = seen, {**observation, "observation": seen}
        if not self._plan:
            inputs = dict(observation)
            if self.file.takes_noise:
                inputs[NOISE] = self.random.standard_normal(self.file.inputs[NOISE][0]).astype(np.float32)
            if self._memory is not None:
                inputs[MEMORY] = self._memory
            action, self._memory = self.file.outputs(inputs)
            self._plan = list(np.atleast_2d(action))
            if not np.isfinite(self._plan).all():
                raise PenstockError(
                    f"'{self.file.path}' makes NaN or infinity of an observation whose largest number is "
                    f"{max(float(np.abs(values).max()) for values in observation.values()):g}. Scale it, or stop."
                )
        return self._plan.pop(0)
