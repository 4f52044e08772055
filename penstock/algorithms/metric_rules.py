"""What the numbers of an iteration are means of, by their names."""

from collections.abc import Container


def is_counter(name: str) -> bool:
    """Whether a metric counts events, so that it is summed over a block rather than averaged."""
    return name.startswith("world/") or name.endswith(("/skipped", "/steps", "/gradient_steps"))


def steps_of(name: str, known: Container[str]) -> str:
    """The counter over whose steps a metric is a mean: of its own part (``PART/steps``), or of all gradient steps.

    Empty where a metric belongs to no gradient step: it is a mean over iterations, or a counter itself.
    """
    part = name.split("/")[0]
    if is_counter(name) or part in ("train", "world"):
        return ""
    for counter in (f"{part}/steps", "train/gradient_steps"):
        if counter in known:
            return counter
    return ""
