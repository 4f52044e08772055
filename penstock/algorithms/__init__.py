"""One file per algorithm. `penstock.algorithms.registry` finds them by name."""
