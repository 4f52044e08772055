"""Every policy class as a file of every kind; and files that are not to be trusted."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import onnx
import pytest

from penstock import _processor
from penstock._errors import ConfigurationError, PenstockError
from penstock.export._seal import sealed
from penstock.export.files import FORMATS, READER_NAME, Player, open_policy, write
from penstock.export.parity import TOLERANCE
from penstock.networks import mlp
from penstock.observation import ObservationSpec
from penstock.policies.settings import POLICIES
from tests.export.exported_agents import ACTIONS, SIZE, decision, some_inputs

METADATA = {"world": {"name": "mine"}, "action": {"size": ACTIONS}}
FLOWS = [name for name, settings in POLICIES.items() if hasattr(settings, "velocity")]
FIELDS = ("affine", "mlp", "gated", "decoded")
CASES = {
    **{name: {"settings": settings} for name, settings in POLICIES.items() if ":" not in name},
    **{f"flow {field}": {"settings": dataclasses.replace(POLICIES["flow"], velocity=field)} for field in FIELDS},
    **{
        f"flow {stepper}": {"settings": dataclasses.replace(POLICIES["flow"], stepper=stepper)}
        for stepper in ("midpoint", "heun", "rk4")
    },
    **{f"flow {rule}": {"settings": POLICIES["flow"], "rule": rule} for rule in ("typical", "mean", "modal")},
    **{
        f"{name} noise-fed": {"settings": POLICIES[name], "mode": "noise-fed"}
        for name in ("gaussian", "coupling", "flow", "noisy-flow")
    },
    **{f"{name} clipped": {"settings": POLICIES[name].clipped()} for name in ("gaussian", "coupling")},
    "coupling likeliest": {"settings": POLICIES["coupling"], "rule": "likeliest"},
    "chunks": {"settings": POLICIES["flow"], "chunk": 4, "rule": "modal"},
    "chunks noise-fed": {"settings": POLICIES["coupling"], "chunk": 3, "mode": "noise-fed"},
    "batch renormalisation": {"settings": POLICIES["gaussian"], "renorm_warmup": 10},
    "points": {"settings": POLICIES["gaussian"], "spec": ObservationSpec(SIZE, points=7)},
    "pixels": {"settings": POLICIES["gaussian"], "spec": ObservationSpec(0, pixels=(32, 33, 3))},
    "pixels and numbers": {"settings": POLICIES["gaussian"], "spec": ObservationSpec(2, pixels=(33, 32, 1))},
    **{
        activation: {"settings": POLICIES["gaussian"], "activation": activation}
        for activation in ("elu", "relu", "gelu", "mish", "tanh", "identity")
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_decides_as_the_agent_does(case, tmp_path):
    made = decision(**CASES[case])
    inputs = [some_inputs(made, seed) for seed in range(3)]
    expected = [np.asarray(jax.jit(made)(**given)["action"]) for given in inputs]
    assert np.ptp(expected, axis=0).max() > 1e-3  # the observation matters
    for target, kind in FORMATS.items():
        path = tmp_path / f"policy{kind.suffix}"
        write(made, METADATA, path, target)
        file = open_policy(path)
        assert file.inputs == {name: (shape.shape, str(shape.dtype)) for name, shape in made.inputs.items()}
        for given, wanted in zip(inputs, expected, strict=True):
            found = file.decide(given)
            assert found.shape == wanted.shape and found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0.0, err_msg=target)


@pytest.mark.parametrize("target", FORMATS)
def test_a_file_does_not_depend_on_the_machine_that_wrote_it(target, tmp_path, monkeypatch):
    """Two kinds of processors, for which layers of whole pages have different forms."""
    monkeypatch.setattr(mlp, "PAGE", 8)
    content = []
    for pad_rows in (True, False):
        _processor.suit(pad_rows=pad_rows)
        try:
            path = tmp_path / f"{pad_rows}{FORMATS[target].suffix}"
            made = decision(POLICIES["deterministic"])
            write(made, METADATA, path, target)
            jaxpr = jax.make_jaxpr(made)(observation=np.zeros(SIZE, np.float32))
            assert (" pad[" in str(jaxpr)) == pad_rows  # the forms differ where nobody asks for the plain one
            assert _processor.padded_rows() == pad_rows
        finally:
            _processor.suit(pad_rows=False)
        content.append(path.read_bytes())
    assert content[0] == content[1]


OLDER_MACHINE = {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}
"""Without instructions that a newer one has, in which sums are rounded elsewhere."""


@pytest.mark.slow
def test_constants_do_not_depend_on_the_instructions_of_the_processor():
    script = (
        "from penstock._jax_setup import set_up_jax; set_up_jax()\n"
        "import dataclasses; from penstock.policies.settings import POLICIES\n"
        "from tests.export.exported_agents import decision, redrawn\n"
        "decoded = dataclasses.replace(POLICIES['noisy-flow'], velocity='decoded')\n"
        "renormalized = decision(POLICIES['gaussian'], renorm_warmup=10)\n"
        "print(*(redrawn(made).program().sha256() for made in (decision(decoded), renormalized)))\n"
    )
    hashes = set()
    for machine in (OLDER_MACHINE, {}):
        environment = {**os.environ, **machine}
        command = [sys.executable, "-W", "ignore", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        hashes.add(done.stdout.splitlines()[-1])
    assert len(hashes) == 1


def test_the_module_beside_a_file_reads_it_with_numpy_alone(tmp_path):
    made = decision(POLICIES["flow"], chunk=2, rule="modal")
    path, module = write(made, METADATA, tmp_path / "policy.npz", "numpy")
    assert module.name == READER_NAME and len(list(filter(str.strip, module.read_text().splitlines()))) <= 60
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import numpy as np; from penstock_policy import Policy\n"
        f"policy = Policy({str(path)!r}); observation = np.arange({SIZE}.0)\n"
        "print(np.stack([policy(observation + i) for i in range(5)]).tolist())\n"
        "policy.reset(); print(policy(observation).tolist())\n"
        "assert not {'jax', 'penstock'} & set(sys.modules), sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    actions, again = map(json.loads, done.stdout.splitlines())

    def plan(start):
        return np.asarray(made(observation=np.arange(SIZE, dtype=np.float32) + start)["action"])

    expected = [*plan(0), *plan(2), plan(4)[0]]  # two actions per plan, made at steps 0, 2 and 4
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    np.testing.assert_allclose(again, plan(0)[0], atol=1e-5)


def test_the_reader_draws_the_noise_that_nobody_gives(tmp_path):
    write(decision(POLICIES["gaussian"], mode="noise-fed"), METADATA, tmp_path / "policy.npz", "numpy")
    from penstock.export.reader import Policy

    first, same, other = (Policy(tmp_path / "policy.npz", seed=seed)(np.zeros(SIZE)) for seed in (0, 0, 1))
    assert (first == same).all() and (first != other).all()


def loud():
    """A decision whose weights are so large that large observations overflow."""
    made = decision(POLICIES["gaussian"])
    return dataclasses.replace(made, agent=jax.tree.map(lambda leaf: 1e3 * leaf, made.agent))


def test_the_reader_refuses_what_is_no_number(tmp_path):
    write(loud(), METADATA, tmp_path / "policy.npz", "numpy")
    from penstock.export.reader import Policy

    policy = Policy(tmp_path / "policy.npz")
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="observation: it holds NaN or infinity"):
            policy(np.array([wrong, *np.zeros(SIZE - 1)]))
    with pytest.raises(ValueError, match="action: it holds NaN or infinity"):
        policy(np.full(SIZE, 3e38))
    with pytest.raises(ValueError, match=r"observation: it has the shape \(1, 5\), and must have \[5\]"):
        policy(np.zeros((1, SIZE)))
    with pytest.raises(TypeError, match=r"takes \['observation'\], and not \['noise'\]"):
        policy(np.zeros(SIZE), noise=np.zeros(ACTIONS))


def test_a_player_refuses_what_is_no_number(tmp_path):
    write(loud(), METADATA, tmp_path / "policy.onnx", "onnx")
    player = Player(open_policy(tmp_path / "policy.onnx"), np.random.default_rng(0))
    with pytest.raises(PenstockError, match="observation: it holds NaN or infinity"):
        player.act({"observation": np.full(SIZE, np.nan, np.float32)})
    with pytest.raises(PenstockError, match=r"makes NaN or infinity of an observation whose largest number is 3e\+38"):
        player.act({"observation": np.full(SIZE, 3e38, np.float32)})


def test_a_player_follows_plans_and_draws_noise(tmp_path):
    write(decision(POLICIES["coupling"], chunk=3, mode="noise-fed"), METADATA, tmp_path / "policy.npz", "numpy")
    file = open_policy(tmp_path / "policy.npz")
    player = Player(file, np.random.default_rng(0))
    observation = {"observation": np.zeros(SIZE, np.float32)}
    actions = [player.act(observation) for _ in range(4)]
    noises = np.random.default_rng(0).standard_normal((2, 9)).astype(np.float32)
    plans = [file.decide({**observation, "noise": noise}) for noise in noises]
    np.testing.assert_array_equal(actions, [*plans[0], plans[1][0]])


def test_actions_stay_in_the_box_of_the_environment(tmp_path):
    from penstock.export.decision import ActionRange

    ends = ActionRange(np.array([-1.0, 0.1]), np.array([2.0, 0.3]))
    assert np.asarray(ends.from_unit(np.array([[-1.0, 1.0], [1.0, 0.0], [0.0, -1.0]], np.float32))) == pytest.approx(
        np.array([[-1.0, 0.3], [2.0, 0.2], [0.5, 0.1]])
    )
    assert np.asarray(ends.from_unit(np.float32([1.5, -1.5]))) == pytest.approx(np.array([2.0, 0.1]))


def test_onnx_files_are_read_by_runtimes_of_robots(tmp_path):
    write(decision(POLICIES["flow"], rule="modal"), METADATA, tmp_path / "policy.onnx", "onnx")
    model = onnx.load(tmp_path / "policy.onnx")
    assert [opset.version for opset in model.opset_import] == [17] and model.ir_version == 8
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"observation": [1, SIZE], "action": [1, ACTIONS]}
    assert not {"Loop", "Scan", "If", "RandomNormal"} & {node.op_type for node in model.graph.node}
    told = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert told["action"] == {"size": ACTIONS} and told["format"] == "penstock-policy"


# ---------------------------------------------------------------------- files that are not to be trusted


@pytest.mark.parametrize("target", FORMATS)
def test_damage_is_told(target, tmp_path):
    path = tmp_path / f"policy{FORMATS[target].suffix}"
    write(decision(POLICIES["gaussian"]), METADATA, path, target)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no policy at all"):
        path.write_bytes(damaged)
        with pytest.raises(PenstockError, match=r"cannot be read as an exported policy|zip archive") as told:
            open_policy(path)
        assert len(str(told.value).splitlines()) == 1


def edited_numpy(path, weights):
    arrays = dict(np.load(path))
    if weights:
        arrays["c0"] = arrays["c0"] + 1.0
    else:
        arrays["metadata"] = np.array(arrays["metadata"].item().replace('"mine"', '"yours"'))
    np.savez(path, **arrays)


def edited_onnx(path, weights):
    model = onnx.load(path)
    if weights:
        constant = next(one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and one.dims)
        constant.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(constant), constant.name))
    else:
        (world,) = (prop for prop in model.metadata_props if prop.key == "world")
        world.value = world.value.replace("mine", "yours")
    onnx.save(model, path)


def edited_stablehlo(path, weights):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if weights:
        parts["exported.bin"] = parts["exported.bin"][:-1] + b"?"
    else:
        parts["metadata.json"] = parts["metadata.json"].replace(b'"mine"', b'"yours"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("weights", [True, False], ids=["a weight", "a name"])
@pytest.mark.parametrize(
    ("target", "edited"), [("numpy", edited_numpy), ("onnx", edited_onnx), ("stablehlo", edited_stablehlo)]
)
def test_what_was_changed_is_told(target, edited, weights, tmp_path):
    path = tmp_path / f"policy{FORMATS[target].suffix}"
    write(decision(POLICIES["gaussian"]), METADATA, path, target)
    open_policy(path)
    edited(path, weights)
    with pytest.raises(PenstockError, match="it is not as it was written: the SHA-256"):
        open_policy(path)


def test_a_file_by_another_name_is_told(tmp_path):
    write(decision(POLICIES["gaussian"]), METADATA, tmp_path / "policy.onnx", "onnx")
    (tmp_path / "policy.onnx").rename(tmp_path / "policy.npz")
    with pytest.raises(PenstockError, match=r"is no zip archive, and a \.npz file is one"):
        open_policy(tmp_path / "policy.npz")
    write(decision(POLICIES["gaussian"]), METADATA, tmp_path / "policy.stablehlo", "stablehlo")
    (tmp_path / "policy.stablehlo").rename(tmp_path / "policy.onnx")
    with pytest.raises(PenstockError, match=r"is a zip archive, and a \.onnx file is no"):
        open_policy(tmp_path / "policy.onnx")


def test_no_pickle_is_loaded(tmp_path):
    path = tmp_path / "policy.npz"
    np.savez(path, metadata=np.array([{"a": 1}], object), program=np.array("{}"), allow_pickle=True)
    with pytest.raises(PenstockError, match="cannot be read as an exported policy"):
        open_policy(path)


def test_a_newer_format_and_files_of_others_are_told_apart(tmp_path):
    path = tmp_path / "policy.stablehlo"
    write(decision(POLICIES["gaussian"]), METADATA, path, "stablehlo")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def rewritten(**changes):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in parts.items():
                if name == "metadata.json":
                    told = {key: value for key, value in json.loads(content).items() if key != "sha256"}
                    module = hashlib.sha256(parts["exported.bin"]).hexdigest()
                    content = json.dumps(sealed({**told, **changes}, module))
                archive.writestr(name, content)
        path.write_bytes(buffer.getvalue())

    rewritten(format_version=2)
    with pytest.raises(PenstockError, match="has format 2; this Penstock"):
        open_policy(path)
    rewritten(format="somebody's")
    with pytest.raises(PenstockError, match="it is not one of Penstock's"):
        open_policy(path)


def test_names_that_cannot_be(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a file for onnx ends in \.onnx"):
        write(decision(POLICIES["gaussian"]), METADATA, tmp_path / "policy.npz", "onnx")
    with pytest.raises(ConfigurationError, match="is no file that `penstock export` writes"):
        open_policy(tmp_path / "policy.pt")
    with pytest.raises(PenstockError, match="there is no such file"):
        open_policy(tmp_path / "policy.npz")


def test_an_old_file_survives_a_disk_that_is_full(tmp_path, monkeypatch):
    path = tmp_path / "policy.npz"
    write(decision(POLICIES["gaussian"]), METADATA, path, "numpy")
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda self, content: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(PenstockError, match="the disk is full"):
        write(decision(POLICIES["flow"]), METADATA, path, "numpy")
    assert path.read_bytes() == before
    shutil.rmtree(tmp_path)
