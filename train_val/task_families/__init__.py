"""Families of tasks, for meta-training and for testing how a meta-optimizer generalises."""

from train_val.networks import network_table
from train_val.problems.array_problem import ArrayTask, Score
from train_val.problems.equation_problem import Equation, Term
from train_val.task_families import families
from train_val.task_families.registry import (
    family,
    file_digest,
    load_file,
    make,
    make_all,
    names,
    problem_of,
    task,
)
from train_val.task_families.smoke import smoke_test

for _name in network_table.FAMILIES:
    _known = network_table.find(_name)
    if _known.family is not None:
        family(network_table.load(_known.family))
    else:
        task(network_table.load(_known.task))

__all__ = [
    "ArrayTask",
    "Equation",
    "Score",
    "Term",
    "families",
    "family",
    "file_digest",
    "load_file",
    "make",
    "make_all",
    "names",
    "problem_of",
    "smoke_test",
    "task",
]
