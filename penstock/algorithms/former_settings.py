"""Names that settings had in earlier versions, and what to do now."""

_OF_A_NOISY_FLOW = "A subclass of NoisyFlowSettings in a file of your own may have it otherwise (docs/add_a_policy.md)."
_OF_RELEASED_FLOWRL = "FlowRL's released code is an algorithm of its own: benchmarks/released_flowrl.py."

FORMER_SETTINGS = {
    "stagger_episodes": "Environments of pathwise algorithms always begin at random ages.",
    "initialization_gain": "It follows from the activation.",
    "return_gradient_clip": "Use gradient_clip for the whole gradient, gradient_limit for that of one environment.",
    "entropy": "Choose policy = marginal-flow for the entropy of the action, noisy-flow for that of the path.",
    "drift": _OF_A_NOISY_FLOW,
    "learn_noise": _OF_A_NOISY_FLOW,
    "num_critics": "It is 2; a subclass of the learner may have another number.",
    "renorm_warmup": "It is 100,000 calls, as published.",
    "weighting": _OF_RELEASED_FLOWRL,
    "weight_floor": _OF_RELEASED_FLOWRL,
    "value_activation": _OF_RELEASED_FLOWRL,
    "noise_clip": _OF_RELEASED_FLOWRL,
    "squash_target": "A subclass of FlowRL's learner may override `imitated` (docs/flowrl.md).",
}
"""Name to sentence. Where a name is a setting of something else today, nobody asks here."""
