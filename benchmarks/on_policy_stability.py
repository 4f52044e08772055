"""The claim of NFPO: a bounded scale keeps a coupling flow stable. Bounded, clipped, unbounded, and a Gaussian.

    python benchmarks/on_policy_stability.py plan        # what is left, and what it costs
    python benchmarks/on_policy_stability.py run         # what is left; an interrupted group continues
    python benchmarks/on_policy_stability.py run --tasks classic/multi-goal --clips 0.2
    python benchmarks/on_policy_stability.py report      # tables and figures from what has ended

Every setting is pushed: actor's learning rate x1, x3, x10, x30 (of 3e-4), 10 and 30 epochs, clip range 0.2, 0.5, none.
``sweep`` in place of a clip range varies the bound l and the layers K at 10 epochs and 0.2. All else is shared
(`SETTINGS`); the critic's rate stays. A group is a process with one thread: four rates times five seeds are rows of one
program, with a run folder for each rate below ``runs/on_policy/stability``. Of each seed a line of numbers is kept in
``benchmarks/results/on_policy/stability/TASK/GROUP.json``.

Three things are told apart, for each seed:

    skipped   gradient steps that were left out because a gradient was not finite
    cut       some log-ratio exceeded 20, where PPO cuts it before it is exponentiated; from which iteration on
    fell      the last evaluation is below the start, or more than half of what had been gained was lost again
"""

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path

import numpy as np
from processes import run_scripts

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "on_policy" / "stability"
FIGURES = ROOT / "docs" / "images"
SEEDS, CUT = 5, 20.0
RATE, RATES = 3e-4, (1, 3, 10, 30)
EPOCHS = (10, 30)
NO_CLIP = 1e6
SETTINGS = {"minibatches": 8, "critic_learning_rate": 1e-3}


@dataclasses.dataclass(frozen=True)
class Task:
    """How a world is trained on: 2,048 steps an iteration.

    Attributes:
        num_envs: N.
        iterations: of a run.
        clips: clip ranges that are tried.
        epochs: that are tried.
    """

    num_envs: int
    iterations: int
    clips: tuple[float, ...]
    epochs: tuple[int, ...] = EPOCHS


TASKS = {
    "classic/multi-goal": Task(64, 20, (0.2, NO_CLIP, 0.5)),
    "soft/jumper-mini": Task(16, 10, (0.2, NO_CLIP)),
    "gym/Reacher-v5": Task(8, 10, (0.2, NO_CLIP)),
}
"""2, 80 and 2 action entries. The first is cheap enough for all settings."""

FLOWS = {
    "bounded": {"scale_bound": "tanh", "bound": 1.0},
    "clipped": {"scale_bound": "clip", "bound": 1.0},
    "unbounded": {"scale_bound": "none"},
}
"""l = 1 where there is a bound, and K = 4."""
ARMS = {name: ("nfpo", settings) for name, settings in FLOWS.items()} | {"Gaussian": ("ppo", {})}

BOUNDS, LAYERS = (0.25, 0.5, 1.0, 2.0, None), (2, 4, 8)
SWEEP_TASKS = ("classic/multi-goal", "soft/jumper-mini")


@dataclasses.dataclass(frozen=True)
class Group:
    """What one process trains: a setting under all rates, every seed.

    Attributes:
        task: name of the world.
        arm: name of the policy.
        epochs: passes over a window.
        clip: clip range.
        bound: l, of the sweep; 0 for none.
        layers: K, of the sweep; 0 outside of it.
    """

    task: str
    arm: str
    epochs: int
    clip: float
    bound: float = 0.0
    layers: int = 0

    @property
    def name(self) -> str:
        """Also of its file."""
        if self.layers:
            return f"sweep-l-{self.bound or 'none'}-K-{self.layers}"
        return f"{self.arm}-{self.epochs}-epochs-clip-{clip_text(self.clip)}"

    @property
    def path(self) -> Path:
        """Where its numbers are."""
        return RESULTS / self.task.replace("/", "-") / f"{self.name}.json"

    @property
    def settings(self) -> dict:
        """Of the algorithm, but for the actor's rate."""
        own = dict(ARMS[self.arm][1])
        if self.layers:
            own = {"coupling_layers": self.layers}
            own |= {"bound": self.bound} if self.bound else {"scale_bound": "none"}
        window = 2048 // TASKS[self.task].num_envs
        return {**SETTINGS, **own, "window": window, "epochs": self.epochs, "clip_range": self.clip}


def clip_text(clip: float) -> str:
    return "none" if clip == NO_CLIP else f"{clip:g}"


def groups(tasks: list[str], clips: list[str]) -> list[Group]:
    """All groups, in the order in which they run: what every task has first."""
    chosen = []
    for clip in dict.fromkeys(clip for task in TASKS.values() for clip in task.clips):
        for (name, task), epochs, arm in itertools.product(TASKS.items(), EPOCHS, ARMS):
            if clip in task.clips and epochs in task.epochs and clip_text(clip) in clips:
                chosen.append(Group(name, arm, epochs, clip))
    if "sweep" in clips:
        every = itertools.product(SWEEP_TASKS, LAYERS, BOUNDS)
        chosen += [Group(task, "bounded", 10, 0.2, bound or 0.0, layers) for task, layers, bound in every]
    return [group for group in chosen if group.task in tasks]


# ---------------------------------------------------------------------- one group


def train_group(group: Group) -> None:
    """Trains the group in this process and keeps its numbers."""
    begin = time.process_time()
    from penstock._jax_setup import set_up_jax

    set_up_jax()
    from penstock.storage.metrics_log import read_metrics
    from penstock.training.loop import Silent, train, train_together
    from penstock.training.plan import make_plan
    from penstock.training.record import TrainingFailedError

    task = TASKS[group.task]
    folder = ROOT / "runs" / "on_policy" / "stability" / group.task.replace("/", "-") / group.name
    runs = []
    for rate in RATES:
        plan = make_plan(
            ARMS[group.arm][0],
            group.task,
            settings={**group.settings, "actor_learning_rate": RATE * rate},
            num_envs=task.num_envs,
            steps=2048 * task.iterations,
            evaluate_every=2048 * task.iterations // 5,
            evaluation_episodes=16,
            log_every=1,
            seed=1,
            seeds=SEEDS,
        )
        runs.append((plan, folder / f"rate-x{rate}"))
    failed: dict[int, str] = {}
    try:
        train_together(runs, observer=Silent(lambda line: None))
    except TrainingFailedError:  # one row ended all: the others go on alone
        for rate, run in zip(RATES, runs, strict=True):
            try:
                train(*run, observer=Silent(lambda line: None))
            except TrainingFailedError as error:
                failed[rate] = str(error).splitlines()[0]
    rows = []
    for rate, (_, path) in zip(RATES, runs, strict=True):
        lines = read_metrics(path / "metrics.jsonl")
        for seed in range(1, SEEDS + 1):
            row = {"rate": rate, "seed": seed, **summary([line for line in lines if line["seed"] == seed])}
            rows.append(row | ({"failed": failed[rate]} if rate in failed else {}))
    group.path.parent.mkdir(parents=True, exist_ok=True)
    content = {"cpu_seconds": round(time.process_time() - begin, 1), "seeds": rows}
    text = json.dumps(content, separators=(",", ":")).replace('{"rate"', '\n{"rate"')
    group.path.write_text(text + "\n")


def summary(lines: list[dict]) -> dict:
    """What is kept of one seed."""

    def values(name):
        return [line[name] for line in lines if name in line and np.isfinite(line[name])]

    def first(name, above):
        return next((line["update"] for line in lines if name in line and not line[name] <= above), None)

    def short(number):
        return float(f"{number:.4g}")

    kept = {
        "returns": [short(x) for x in values("eval/return_mean")],
        "returns_deterministic": [short(x) for x in values("eval/return_deterministic")],
        "cut_at": first("actor/largest_log_ratio", CUT),  # also where it is not a number
        "skipped": int(sum(values("actor/skipped")) + sum(values("critic/skipped"))),
        "skipped_at": first("actor/skipped", 0),
    }
    for name, metric, most in (
        ("log_ratio", "actor/largest_log_ratio", max),
        ("kl", "actor/kl", max),
        ("clipped", "actor/clipped", max),
        ("gradient", "actor/gradient_norm", max),
        ("log_det", "policy/log_det", max),
        ("scale", "policy/scale", max),
        ("round_trip", "policy/round_trip", max),
        ("std_min", "policy/latent_std_min", min),
        ("std_max", "policy/latent_std_max", max),
        ("saturation", "policy/saturation", max),
    ):
        if values(metric):
            kept[name] = short(most(values(metric)))
    return kept


# ---------------------------------------------------------------------- what has ended


def fell(row: dict) -> bool:
    """See the module's text."""
    returns = row["returns"]
    start, best, last = returns[0], max(returns), returns[-1]
    return not (last >= start and last - start >= 0.5 * (best - start))


def cell(rows: list[dict], name: str) -> str:
    """One setting, all seeds."""
    if name == "return":
        lost = sum(fell(row) or "failed" in row for row in rows)
        return f"{np.median([row['returns'][-1] for row in rows]):.4g}" + (f", {lost} fell" if lost else "")
    if name == "log_ratio":
        cut = [row["cut_at"] for row in rows if row["cut_at"] is not None]
        skipped = sum(row["skipped"] for row in rows)
        text = f"{np.median([row['log_ratio'] for row in rows]):.3g}"
        text += f", {len(cut)} cut from {min(cut)}" if cut else ""
        return text + (f", {skipped} skipped" if skipped else "")
    values = [row[name] for row in rows if name in row]
    return f"{np.median(values):.3g}" if values else ""


SHOWN = {
    "return": "last stochastic return, median of five seeds; how many fell",
    "log_ratio": "largest |log ratio|, median of five seeds; how many were cut, from which iteration on",
    "kl": "largest mean KL divergence of an iteration, median",
    "log_det": "largest |log det|, median",
    "scale": "largest |s| of a layer, median",
    "std_min": "smallest spread of an action entry, median",
    "round_trip": "largest error of the inverse, median",
}


def report(arguments: argparse.Namespace) -> None:
    from penstock.reports.tables import markdown_table

    for task in arguments.tasks:
        ended = [group for group in groups([task], arguments.clips) if group.path.is_file()]
        for part in (False, True):
            own = {group: json.loads(group.path.read_text()) for group in ended if bool(group.layers) == part}
            if not own:
                continue
            print(
                f"\n## {task}{', bound and layers' if part else ''}, {TASKS[task].iterations * 2048:,} steps; ", end=""
            )
            print(f"{sum(content['cpu_seconds'] for content in own.values()):,.0f} CPU seconds")
            for name, title in SHOWN.items():
                table = []
                for group, content in own.items():
                    labels = {"arm": group.arm, "epochs": group.epochs, "clip": clip_text(group.clip)}
                    labels = {"l": group.bound or "none", "K": group.layers} if part else labels
                    by_rate = {rate: [row for row in content["seeds"] if row["rate"] == rate] for rate in RATES}
                    table.append(labels | {f"x{rate}": cell(rows, name) for rate, rows in by_rate.items()})
                print(f"\n{title}\n\n{markdown_table(table)}")
            if not part:
                print(*draw(task, own))


def draw(task: str, own: dict[Group, dict]) -> list[Path]:
    """A column of panels for each pair of epochs and clip range: return, and largest log-ratio, against the rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.figure

    from penstock.reports.style import INK, PALETTE, SOFT, save

    columns = sorted({(group.clip, group.epochs) for group in own})
    size = (2.5 * len(columns) + 0.6, 5.2)
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
    for column, (clip, epochs) in enumerate(columns):
        for group in own:
            if (group.clip, group.epochs) != (clip, epochs):
                continue
            color = PALETTE[list(ARMS).index(group.arm)]
            for line, read in enumerate((lambda row: row["returns"][-1], lambda row: row["log_ratio"])):
                values = np.array([[read(row) for row in own[group]["seeds"] if row["rate"] == rate] for rate in RATES])
                panel = axes[line, column]
                panel.plot(RATES, np.median(values, 1), marker="o", markersize=3, color=color, label=group.arm)
                panel.fill_between(RATES, values.min(1), values.max(1), color=color, alpha=0.13, linewidth=0)
        axes[0, column].set_title(f"{epochs} epochs, clip {clip_text(clip)}", fontsize=9, color=INK, loc="left")
        axes[1, column].set(xscale="log", yscale="log", xticks=RATES, xticklabels=[f"x{rate}" for rate in RATES])
        axes[1, column].minorticks_off()
        axes[1, column].axhline(CUT, color=SOFT, linewidth=0.8, linestyle=":")
    axes[0, 0].set_ylabel("last return", fontsize=9, color=INK)
    axes[1, 0].set_ylabel("largest |log ratio|", fontsize=9, color=INK)
    axes[0, 0].legend(fontsize=8, frameon=False)
    for panel in axes.flat:
        panel.tick_params(labelsize=7, colors=SOFT)
    figure.suptitle(f"{task}: actor's learning rate, x {RATE:g}", fontsize=10, color=INK, x=0.01, ha="left")
    FIGURES.mkdir(parents=True, exist_ok=True)
    return save(figure, FIGURES / f"on_policy_stability_{task.split('/')[1]}.png")


def left(arguments: argparse.Namespace) -> list[Group]:
    return [group for group in groups(arguments.tasks, arguments.clips) if not group.path.is_file()]


def run(arguments: argparse.Namespace) -> None:
    jobs = {
        f"{group.task} {group.name}": [__file__, "one", "--tasks", group.task, "--group", group.name]
        for group in left(arguments)
    }
    run_scripts(jobs, arguments.processes)


def plan(arguments: argparse.Namespace) -> None:
    """Says what is left; costs are those of groups of the same task, epochs and kind of policy that have ended."""
    cost: dict[tuple, list[float]] = {}

    def kind(group):
        return group.task, group.epochs, group.arm == "Gaussian"

    for group in groups(list(TASKS), CLIPS):
        if group.path.is_file() and not group.layers:
            cost.setdefault(kind(group), []).append(json.loads(group.path.read_text())["cpu_seconds"])
    total = 0.0
    for group in left(arguments):
        seconds = float(np.mean(cost.get(kind(group), [np.nan])))
        total += 0.0 if np.isnan(seconds) else seconds
        print(f"{group.task} {group.name}: {'not measured' if np.isnan(seconds) else f'{seconds:.0f} CPU s'}")
    print(f"{len(left(arguments))} groups are left; those whose cost is known: {total / 3600:.1f} CPU hours")


def one(arguments: argparse.Namespace) -> None:
    (group,) = [group for group in groups(arguments.tasks, CLIPS) if group.name == arguments.group]
    train_group(group)


CLIPS = ["0.2", "none", "0.5", "sweep"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["plan", "run", "one", "report"])
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--clips", nargs="*", default=CLIPS, choices=CLIPS)
    parser.add_argument("--group", default="", help="of ``one``: its name")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    {"plan": plan, "run": run, "one": one, "report": report}[arguments.action](arguments)


if __name__ == "__main__":
    main()
