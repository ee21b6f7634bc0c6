"""Optimizers side by side: the same initial weights and batches, each at its best settings."""

from train_val.comparison.contenders import Contender
from train_val.comparison.cost import Cost, measure, measure_apart
from train_val.comparison.grid_search import Result, compare
from train_val.comparison.page import page
from train_val.comparison.pictures import picture, scoreboard_picture
from train_val.comparison.runs import Curve, RunCache, run
from train_val.comparison.scoreboard import Score, at_measured_cost, scoreboard
from train_val.comparison.specifications import NAMES, Entrant, parse, parse_all
from train_val.comparison.summary import Summary, json_lines, summarize
from train_val.comparison.tables import scoreboard_table, table
from train_val.comparison.tuning import Tuning, tune
from train_val.training.optimizers import weights_digest

__all__ = [
    "NAMES",
    "Contender",
    "Cost",
    "Curve",
    "Entrant",
    "Result",
    "RunCache",
    "Score",
    "Summary",
    "Tuning",
    "at_measured_cost",
    "compare",
    "json_lines",
    "measure",
    "measure_apart",
    "page",
    "parse",
    "parse_all",
    "picture",
    "run",
    "scoreboard",
    "scoreboard_picture",
    "scoreboard_table",
    "summarize",
    "table",
    "tune",
    "weights_digest",
]
