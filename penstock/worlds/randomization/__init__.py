"""Domain randomisation: what differs from episode to episode, as one configuration for C MuJoCo and MJX alike.

`terms` says what there is, `reading` reads a file or a mapping, `model_changes` applies terms to the numbers of a
MuJoCo model, `perturbations` holds what happens beside the model: latency, pushes, noise. What a simulator does with
them stands beside its worlds: `penstock.worlds.hosted.randomized`, `penstock.worlds.jax_packages.randomized`.
"""
