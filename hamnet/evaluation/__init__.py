"""Evaluation: predictions against labels, tables and a report."""

from hamnet.evaluation.evaluate import Evaluation, FrameResult, evaluate
from hamnet.evaluation.stream import Predictor, predict_records, predict_structures

__all__ = [
    "Evaluation",
    "FrameResult",
    "Predictor",
    "evaluate",
    "predict_records",
    "predict_structures",
]
