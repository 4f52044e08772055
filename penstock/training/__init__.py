"""The run: plan, loop, metrics, checkpoints, evaluation, run folder."""
