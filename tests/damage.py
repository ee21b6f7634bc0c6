"""What disks, kills, editors and other versions do to files, for tests of those who read them."""

import numpy as np

# In the place of any file.
CONTENTS = {
    "empty": b"",
    "a list": b"[1, 2]\n",
    "a number": b"5\n",
    "a word": b'"text"\n',
    "null": b"null\n",
    "another object": b'{"a": 1}\n',
    "not JSON": b"{'a': 1}\n",
    "not a number": b'{"step": NaN, "key": Infinity}\n',
    "another encoding": b"\xff\xfe\x00{\n",
    "zeros": b"\0" * 600,
    "nested": b"[" * 100_000,
    "of digits": b"1" * 10_000 + b"\n",
    "a ZIP archive": b"PK\x05\x06" + b"\0" * 18,
}


def damaged(content):
    """What may stand in the place of a file: names and bytes; None is a directory."""
    yield from CONTENTS.items()
    yield "cut in half", content[: len(content) // 2]
    yield "without its end", content[:-1]
    middle = len(content) // 2
    yield "a flipped bit", content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]
    yield "twice", content * 2
    yield "a directory", None


def put(path, content):
    """Replaces a file."""
    path.unlink()
    if content is None:
        path.mkdir()
        (path / "kept").write_text("mine")
    else:
        path.write_bytes(content)


def changed(structure, place=()):
    """A structure of arrays with one thing in it changed: places with what was done, and it."""
    if isinstance(structure, dict):
        for name, value in structure.items():
            yield (*place, name, "is gone"), {k: v for k, v in structure.items() if k != name}
            for where, other in changed(value, (*place, name)):
                yield where, {**structure, name: other}
    elif isinstance(structure, (list, tuple)):
        for number, value in enumerate(structure):
            for where, other in changed(value, (*place, number)):
                yield where, [*structure[:number], other, *structure[number + 1 :]]
        if structure:
            yield (*place, "shorter"), structure[:-1]
    elif isinstance(structure, np.ndarray):
        yield (*place, "longer"), np.zeros(structure.size + 1, structure.dtype)
        if structure.dtype.kind == "f":
            yield (*place, "int"), structure.astype(np.int32)
            yield (*place, "NaN"), np.full_like(structure, np.nan)
    yield (*place, "text"), "text"
    yield (*place, "None"), None
    yield (*place, "a list"), [1, [2]]
