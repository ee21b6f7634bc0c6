"""Prioritized experience replay on NumPy alone.

`PrioritizedReplay` draws snapshots by rank-based or proportional priority, with importance weights
(Schaul et al. 2016, arXiv 1511.05952), and survives a kill at any moment. What it stores snapshots
with serves checkpoints too: `write_structure`, `read_structure`, `replace_file`, `DirectoryLock`.
"""

from replay.atomic import remove_temporary_files, replace_file
from replay.directory_lock import DirectoryLock
from replay.directory_store import DamagedSnapshotError
from replay.prioritized_replay import PrioritizedReplay
from replay.sampling import Sample
from replay.storage import DamagedFileError, read_structure, write_structure

__all__ = [
    "DamagedFileError",
    "DamagedSnapshotError",
    "DirectoryLock",
    "PrioritizedReplay",
    "Sample",
    "read_structure",
    "remove_temporary_files",
    "replace_file",
    "write_structure",
]
