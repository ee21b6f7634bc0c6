"""Compares optimizers: the same initial weights and batches, each at its best settings."""

from train_val.comparison.cost import Cost, measure, measure_apart
from train_val.comparison.page import page
from train_val.comparison.pictures import scoreboard_picture
from train_val.comparison.runs import Curve, RunCache, run
from train_val.comparison.runs_apart import Request, RunsApart
from train_val.comparison.scoreboard import Score, at_measured_cost, scoreboard
from train_val.comparison.specifications import NAMES, Entrant, parse, parse_all
from train_val.comparison.summary import Summary, json_lines, least_loss, summarize
from train_val.comparison.tables import scoreboard_table, table
from train_val.comparison.tuning import Tuning, tune
from train_val.training.optimizers import weights_digest

__all__ = [
    "NAMES",
    "Cost",
    "Curve",
    "Entrant",
    "Request",
    "RunCache",
    "RunsApart",
    "Score",
    "Summary",
    "Tuning",
    "at_measured_cost",
    "json_lines",
    "least_loss",
    "measure",
    "measure_apart",
    "page",
    "parse",
    "parse_all",
    "run",
    "scoreboard",
    "scoreboard_picture",
    "scoreboard_table",
    "summarize",
    "table",
    "tune",
    "weights_digest",
]
