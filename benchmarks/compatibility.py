r"""Which environments of which packages work: checked, trained in by SAC and Flow-G, filmed, and asked for success.

    pip install 'gymnasium[box2d,classic-control,mujoco,toy-text]' panda-gym highway-env gym-pusht ogbench PyFlyt \
        gymnax six
    pip install gymnasium-robotics robosuite h5py metaworld 'mujoco<3.7'  # apart: they fail on MuJoCo 3.17
    python benchmarks/compatibility.py list                    # the worlds, by package
    python benchmarks/compatibility.py run [PACKAGE ...]       # tries them, adds to results/compatibility.json
    python benchmarks/compatibility.py report                  # writes docs/compatibility.md from that

Every world is tried in a process of its own, by the commands that a user types: `check-world`, 300 steps of `train sac`
and of `train sac-flow` with the gated velocity, `video`. A command works, or refuses in a sentence; anything else (a
traceback, a crash, no end) is a fault. A film counts if its frames can be read back and show more than one colour.
Success must stand in the metrics of the evaluation where the environment's own ``info`` has it, which is asked for
apart from Penstock's code. What is there already is not tried again; `--again WORLD ...` tries it.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from penstock.reports.tables import markdown_table

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "results" / "compatibility.json"
PAGE = HERE.parent / "docs" / "compatibility.md"
OWN = "benchmarks/compatibility_worlds.py"

LONGEST = 900.0
"""Seconds for one world, all stages together."""

STAGES = ("check", "sac", "sac-flow", "film")

ADVICE = "max_episode_steps=1000"
"""What an environment without a time limit is refused for; it is tried again as the sentence says."""

SUCCESS_NAMES = ("is_success", "success")

SETTINGS = {
    "steps": 300,
    "num-envs": 2,
    "warmup-steps": 128,
    "collect-steps": 16,
    "batch-size": 32,
    "evaluate-every": 300,
    "evaluation-episodes": 1,
}
HIDDEN = ("--actor-hidden", "32", "32", "--critic-hidden", "32", "32")
TRAIN = [*(f"--{name}={value}" for name, value in SETTINGS.items()), *HIDDEN, "--no-video"]

ALGORITHMS = {"sac": (), "sac-flow": ("--velocity", "gated")}

_ROBOTICS = (
    "Fetch{Reach,Push,Slide,PickAndPlace} Fetch{Reach,Push,Slide,PickAndPlace}Dense HandReach "
    "HandManipulate{Block,Egg,Pen} HandManipulateBlock_ContinuousTouchSensors AntMaze_{UMaze,Open,Medium,Large} "
    "PointMaze_{UMaze,Open,Medium,Large} AdroitHand{Door,Hammer,Pen,Relocate} FrankaKitchen"
)
"""The families of gymnasium-robotics, a few of each family's many variants."""

_OGBENCH = (
    "pointmaze-medium pointmaze-teleport antmaze-medium antmaze-giant humanoidmaze-medium antsoccer-arena "
    "cube-{single,double,quadruple} scene puzzle-{3x3,4x6} powderworld-easy visual-antmaze-medium visual-cube-single "
    "visual-scene pointmaze-large-singletask antmaze-large-singletask humanoidmaze-large-singletask "
    "antsoccer-arena-singletask cube-double-singletask scene-singletask puzzle-4x4-singletask"
)


def worlds_of(package: str) -> list[tuple[str, tuple[str, ...]]]:
    """Names and options of the worlds that are tried of a package."""
    if package == "dm_control":
        from dm_control import suite

        return [(f"dmc/{domain}-{task}", ()) for domain, task in suite.ALL_TASKS]
    if package == "robosuite":
        import robosuite  # pyright: ignore[reportMissingImports]

        return [(f"{OWN}:make_robosuite", (f"task={task}",)) for task in robosuite.ALL_ENVIRONMENTS]
    if package == "gymnax":
        import gymnax  # pyright: ignore[reportMissingImports]

        return [(f"{OWN}:make_gymnax", (f"name={name}",)) for name in gymnax.registered_envs]
    if package == "metaworld":
        import metaworld  # pyright: ignore[reportMissingImports]

        tasks = list(metaworld.ALL_V3_ENVIRONMENTS)[::5]  # they differ in what lies on the table alone
        return [("gym/metaworld:Meta-World/MT1", (f"env_name={task}",)) for task in tasks]
    if package == "gym_pusht":
        kinds = ("state", "environment_state_agent_pos", "pixels", "pixels_agent_pos")
        return [
            ("gym/gym_pusht:gym_pusht/PushT-v0", (f"obs_type={kind}", *_of_pictures(kind.removesuffix("_agent_pos"))))
            for kind in kinds
        ]
    module = {"PyFlyt": "PyFlyt.gym_envs"}.get(package, package)
    names = _newest(module)
    if package == "gymnasium":
        return [(f"gym/{name}", _of_pictures(name)) for name in names if "GymV2" not in name]
    if package == "panda_gym":
        names = [name for name in names if "Joints" not in name]
    if package in ("gymnasium_robotics", "ogbench"):
        stems = _expanded(_ROBOTICS if package == "gymnasium_robotics" else _OGBENCH)
        names = [name for name in names if re.sub(r"-v\d+$", "", name) in stems]
    return [(f"gym/{module}:{name}", _of_pictures(name)) for name in names]


def _of_pictures(name: str) -> tuple[str, ...]:
    """Small ones and short episodes, so that they take no minutes."""
    return ("image_size=32", "max_episode_steps=50") if re.match("visual-|powderworld|CarRacing|pixels", name) else ()


def _newest(module: str) -> list[str]:
    """Ids that a module registers with Gymnasium, of each the newest version."""
    import importlib

    import gymnasium

    imported = importlib.import_module(module)
    if module == "gymnasium_robotics":
        gymnasium.register_envs(imported)
    newest: dict[str, str] = {}
    for name, spec in gymnasium.registry.items():
        entry = spec.entry_point
        home = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", None) or ""
        if home.partition(".")[0] == module.partition(".")[0]:
            stem, _, number = name.rpartition("-v")
            if stem not in newest or int(number) > int(newest[stem].rpartition("-v")[2]):
                newest[stem] = name
    return list(newest.values())


def _expanded(text: str) -> set[str]:
    """Words of a text, with ``a{b,c}`` written out as ``ab`` and ``ac``."""
    words: set[str] = set()
    for word in text.split():
        before, brace, rest = word.partition("{")
        inside, _, after = rest.partition("}")
        words |= {before + middle + after for middle in inside.split(",")} if brace else {word}
    return words


PACKAGES = {
    "gymnasium": "gymnasium",
    "dm_control": "dm_control",
    "gymnasium_robotics": "gymnasium-robotics",
    "panda_gym": "panda-gym",
    "highway_env": "highway-env",
    "gym_pusht": "gym-pusht",
    "metaworld": "metaworld",
    "ogbench": "ogbench",
    "robosuite": "robosuite",
    "PyFlyt": "PyFlyt",
    "gymnax": "gymnax",
}
"""Modules, and the distributions that hold them."""


# ------------------------------------------------------------------------------------------------- one world


def try_world(name: str, options: list[str], output: Path) -> None:
    """Tries all stages in this process; writes what was found after each, so that a crash loses one only."""
    found: dict = {"stages": {}, "tells_success": False}

    def note(stage: str, outcome: dict) -> None:
        found["stages"][stage] = outcome
        output.write_text(json.dumps(found))

    world = ["--world-option", *options] if options else []
    with tempfile.TemporaryDirectory() as folder:
        note("check", command(["check-world", name, *world, "--num-envs", "2", "--max-seconds", "10"]))
        for algorithm, settings in ALGORITHMS.items():
            run_dir = Path(folder) / algorithm
            outcome = command(
                ["train", algorithm, "--world", name, *world, "--run-dir", str(run_dir), *TRAIN, *settings]
            )
            if outcome["code"] == 0:
                rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
                last = [row for row in rows if "eval/return_deterministic" in row][-1]
                outcome["return"] = last["eval/return_deterministic"]
                outcome["success"] = last.get("eval/success_rate")
            note(algorithm, outcome)
        run_dir = Path(folder) / "sac"
        if found["stages"]["sac"]["code"] == 0:
            film = Path(folder) / "film.mp4"
            size = ["--width", "320", "--height", "240", "--film-seconds", "2"]
            outcome = command(["video", str(run_dir), "--output", str(film), *size])
            if outcome["code"] == 0:
                outcome |= look_at(film)
            note("film", outcome)
    found["tells_success"] = tells_success(name, options)  # last: what it imports must not choose for Penstock
    output.write_text(json.dumps(found))


def command(arguments: list[str]) -> dict:
    """Runs a command of Penstock in this process; its exit code, CPU seconds, and the end of what it printed."""
    from penstock.cli.main import dispatch

    begin = time.process_time()
    with tempfile.TemporaryFile("w+") as printed, _printing_to(printed.fileno()):
        try:
            code = dispatch(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 2
        except BaseException:  # a traceback is what is looked for here
            import traceback

            traceback.print_exc()
            code = -1
        sys.stdout.flush()
        sys.stderr.flush()
        printed.seek(0)
        text = printed.read()
    outcome = {"code": code, "cpu_seconds": round(time.process_time() - begin, 1)}
    if code != 0:
        said = re.search(r"^(ERROR  .*\n.*|penstock \S+: (.*\n?)*)", text, re.MULTILINE)
        outcome["sentence"] = said is not None  # what an environment raised may stand below it
        told = said[0].partition("\nTraceback")[0].strip()[:1_000] if said else text[-1_000:]
        outcome["said"] = told.replace(f"{HERE.parent}/", "").replace(sys.prefix, "ENVIRONMENT")
    elif arguments[0] == "check-world":
        outcome["warnings"] = [line[9:] for line in text.splitlines() if line.startswith("warning")]
    return outcome


@contextlib.contextmanager
def _printing_to(descriptor: int) -> Iterator[None]:
    """Sends what is printed to another file, also what libraries print below Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def look_at(film: Path) -> dict:
    """Number of frames, and of colours in the last one."""
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(film))
    width, height = next(frames)["size"]
    pictures = [np.frombuffer(frame, np.uint8).reshape(height * width, 3) for frame in frames]
    return {"frames": len(pictures), "colours": len(np.unique(pictures[-1] // 16, axis=0))}


def tells_success(name: str, options: list[str]) -> bool:
    """Whether an environment's info says success, asked without Penstock in a few random steps."""
    import ast
    import importlib
    import runpy

    import gymnasium

    keywords = {}
    for option in options:
        key, _, value = option.partition("=")
        if key == "image_size":  # ours
            continue
        try:
            keywords[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            keywords[key] = value
    if name.startswith("dmc/"):
        return False
    try:
        if name.startswith("gym/"):
            module, colon, ident = name.removeprefix("gym/").partition(":")
            if colon:
                imported = importlib.import_module(module)
                if module == "gymnasium_robotics":
                    gymnasium.register_envs(imported)
            environment = gymnasium.make(ident if colon else module, **keywords)
        else:
            path, _, factory = name.partition(":")
            environment = runpy.run_path(path)[factory](**keywords)
        _, info = environment.reset(seed=0)
        told = set(info)
        for _ in range(3):
            *_, terminated, truncated, info = environment.step(environment.action_space.sample())
            told |= set(info)
            if terminated or truncated:
                break
        environment.close()
    except Exception:  # what it cannot do itself, it does not tell
        return False
    return any(name in told for name in SUCCESS_NAMES)


# ------------------------------------------------------------------------------------------------- all worlds


def key_of(name: str, options: tuple[str, ...]) -> str:
    return " ".join([name, *options])


def run(packages: list[str], again: list[str]) -> None:
    record = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"versions": {}, "worlds": {}}
    for package in packages:
        for name, options in worlds_of(package):
            key = key_of(name, options)
            if key in record["worlds"] and key not in again:
                continue
            outcome = in_process(name, options)
            if ADVICE in outcome["stages"].get("sac", {}).get("said", ""):
                outcome = {**in_process(name, (*options, ADVICE)), "advised": ADVICE}
            record["worlds"][key] = {"package": package, **outcome}
            held = dict.fromkeys([PACKAGES[package], "gymnasium", "mujoco"])
            record["versions"][package] = {distribution: version(distribution) for distribution in held}
            OUTPUT.write_text(json.dumps(record, indent=1) + "\n")
            print(key, {stage: verdict(outcome, stage) for stage in (*STAGES, "success")}, flush=True)


def in_process(name: str, options: tuple[str, ...]) -> dict:
    """Tries one world in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "outcome.json"
        arguments = [sys.executable, __file__, "one", name, *options, "--output", str(output)]
        pictures = any(option.startswith("image_size") for option in options)
        quickly = {} if pictures else {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compile quickly
        try:
            finished = subprocess.run(
                arguments,
                cwd=HERE.parent,
                env={**os.environ, **quickly},
                capture_output=True,
                text=True,
                timeout=LONGEST,
                check=False,
            )
            ended = "" if finished.returncode == 0 else f"exit {finished.returncode}: {finished.stderr[-600:]}"
        except subprocess.TimeoutExpired:
            ended = f"no end within {LONGEST:.0f} s"
        outcome = json.loads(output.read_text()) if output.exists() else {"stages": {}, "tells_success": False}
    return {**outcome, "ended": ended} if ended else outcome


def verdict(outcome: dict, stage: str) -> str:
    """What a stage came to: works, refused, FAULT, or - where it does not apply."""
    stages = outcome["stages"]
    if stage == "success":
        if not outcome["tells_success"] or stages.get("sac", {}).get("code") != 0:
            return "-"
        return "works" if stages["sac"].get("success") is not None else "FAULT"
    if stage not in stages:
        return "FAULT" if outcome.get("ended") else "-"
    found = stages[stage]
    if found["code"] == 0:
        blank = stage == "film" and (found["frames"] < 1 or found["colours"] < 2)
        return "FAULT" if blank else "works"
    return "FAULT" if not found["sentence"] or found["code"] not in (1, 2) else "refused"


# ------------------------------------------------------------------------------------------------- the page


def refusals(outcome: dict) -> dict[str, str]:
    """Sentences with which stages were refused, without the world's name and what the environment raised."""
    found = {}
    for stage in STAGES:
        if stage in outcome["stages"] and verdict(outcome, stage) == "refused":
            sentence = outcome["stages"][stage]["said"]
            sentence = re.sub(r"^(penstock \S+: |ERROR +)", "", " ".join(sentence.split()))
            found[stage] = re.sub(r"'[^']*(gym/|dmc/|compatibility_worlds)[^']*'", "the world", sentence)
    return found


def page(record: dict) -> str:
    """The page: a table of packages, then every refusal with its reason."""
    worlds, rows, reasons = record["worlds"], [], {}
    for package, distribution in PACKAGES.items():
        mine = {key: outcome for key, outcome in worlds.items() if outcome["package"] == package}
        if not mine:
            continue
        row = {"package": f"{distribution} {record['versions'][package][distribution]}", "worlds": len(mine)}
        for stage in (*STAGES, "success"):
            verdicts = [verdict(outcome, stage) for outcome in mine.values()]
            asked = [each for each in verdicts if each != "-"]
            row[stage] = f"{asked.count('works')} of {len(asked)}" if asked else "-"
        row["refused"] = sum("refused" in map_verdicts(outcome) for outcome in mine.values())
        row["faults"] = sum("FAULT" in map_verdicts(outcome) for outcome in mine.values())
        rows.append(row)
        for key, outcome in mine.items():
            for stage, sentence in refusals(outcome).items():
                reasons.setdefault((distribution, sentence), {}).setdefault(key, []).append(stage)
    faults = [key for key, outcome in worlds.items() if "FAULT" in map_verdicts(outcome)]
    good = f"{len(worlds) - len(faults)} of {len(worlds)} worlds work, or are refused in a sentence"
    told = [
        {
            "package": package,
            "worlds": len(keys),
            "stages": ", ".join(sorted({stage for stages in keys.values() for stage in stages})),
            "told": text,
        }
        for (package, text), keys in reasons.items()
    ]
    versions = sorted({record["versions"][package]["mujoco"] for package in record["versions"]})
    return TEXT.format(
        good=good,
        percent=f"{100.0 * (len(worlds) - len(faults)) / len(worlds):.1f}",
        table=markdown_table(rows),
        reasons=markdown_table(told),
        faults="".join(f"* `{key}`: {describe(worlds[key])}\n" for key in faults) or "None.\n",
        mujoco=" and ".join(versions),
    )


def map_verdicts(outcome: dict) -> list[str]:
    return [verdict(outcome, stage) for stage in (*STAGES, "success")]


def describe(outcome: dict) -> str:
    """What went wrong, in short."""
    if outcome.get("ended"):
        return " ".join(outcome["ended"].split())[:200]
    stage = next(stage for stage in (*STAGES, "success") if verdict(outcome, stage) == "FAULT")
    said = outcome["stages"].get(stage, {}).get("said", "no success rate, or an empty film")
    return f"{stage}: {' '.join(said.split())[-200:]}"


TEXT = """# Environments of other packages

Made by `python benchmarks/compatibility.py`, whose first lines say how. Each world was tried in a process of its own by
the commands that a user types: `check-world`, 300 steps of SAC and of SAC Flow with the gated velocity, and a film of
what SAC learned. A command works, or refuses in a sentence; a traceback of Penstock's, a crash, no end within a
quarter of an hour, an empty film, or a success rate that is missing although the environment tells it, is a fault.
**{good}: {percent} %.**

The numbers are: worked, of those that were tried. Later stages are tried where the earlier ones allow it. Success is
asked for only where `info` holds it in the first steps. MuJoCo {mujoco}; gymnasium-robotics, robosuite and Meta-World
ran with the older one, as they fail by themselves on the newer. A world without a time limit was refused, and tried
again as the sentence says.

{table}

## What is refused, and why

{reasons}

## Faults

{faults}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("list", "run"):
        commands.add_parser(name).add_argument("packages", nargs="*", default=list(PACKAGES), metavar="PACKAGE")
    commands.choices["run"].add_argument("--again", nargs="*", default=[], metavar="WORLD")
    commands.add_parser("report")
    one = commands.add_parser("one")
    one.add_argument("name")
    one.add_argument("options", nargs="*")
    one.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "one":
        try_world(arguments.name, arguments.options, arguments.output)
    elif arguments.command == "list":
        for package in arguments.packages:
            for name, options in worlds_of(package):
                print(f"{package:<20} {key_of(name, options)}")
    elif arguments.command == "run":
        run(arguments.packages, arguments.again)
    else:
        PAGE.write_text(page(json.loads(OUTPUT.read_text())))


if __name__ == "__main__":
    main()
