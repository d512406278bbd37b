"""Evaluation: predictions against labels, tables and a report."""

from hamnet.evaluation.evaluate import Evaluation, FrameResult, evaluate

__all__ = [
    "Evaluation",
    "FrameResult",
    "evaluate",
]
