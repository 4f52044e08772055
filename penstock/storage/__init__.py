"""The files of a run: checkpoints, lock, metrics, folder. Knows no algorithm."""
