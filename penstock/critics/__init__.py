"""Value networks, and the targets that they regress to."""

from penstock.critics.regression import fit_values
from penstock.critics.returns import segment_return, td_lambda_targets
from penstock.critics.value import Critic

__all__ = ["Critic", "fit_values", "segment_return", "td_lambda_targets"]
