"""Evaluation: predictions against labels, tables and a report."""

from hamnet.evaluation.evaluate import Evaluation, FrameResult, evaluate, predict_records

__all__ = ["Evaluation", "FrameResult", "evaluate", "predict_records"]
