"""What a trained run does: its experts, its tasks' gradients, what its features are worth."""

from recmtl.analysis.calibration import calibrate
from recmtl.analysis.explanation import explain
from recmtl.analysis.whole import Analysis, analyse

__all__ = ["Analysis", "analyse", "calibrate", "explain"]
