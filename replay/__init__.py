"""Prioritized experience replay on NumPy alone.

`PrioritizedReplay` draws snapshots by rank-based or proportional priority, with importance weights
(Schaul et al. 2016, arXiv 1511.05952), and survives a kill at any moment. Its storage
serves checkpoints too: `write_structure`, `read_structure`, `replace_file`, `DirectoryLock`;
`read_json` and `read_json_lines` read files that may have been damaged.
"""

from replay.files.atomic import remove_temporary_files, replace_file
from replay.files.directory_lock import DirectoryLock
from replay.files.json_files import JsonLines, read_json, read_json_lines
from replay.files.storage import read_structure, write_structure
from replay.files.unreadable import DamagedFileError, LaterVersionError, UnreadableFileError
from replay.prioritized_replay import PrioritizedReplay
from replay.sampling import Sample
from replay.stores.directory_store import DamagedSnapshotError

__all__ = [
    "DamagedFileError",
    "DamagedSnapshotError",
    "DirectoryLock",
    "JsonLines",
    "LaterVersionError",
    "PrioritizedReplay",
    "Sample",
    "UnreadableFileError",
    "read_json",
    "read_json_lines",
    "read_structure",
    "remove_temporary_files",
    "replace_file",
    "write_structure",
]
