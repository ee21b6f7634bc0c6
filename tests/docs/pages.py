"""The Python blocks of a page, run in order in one namespace."""

import re

from mlhf.custom_op import registry
from mlhf.custom_op.losses import registry as known_losses
from tests.project import ROOT

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(path, tmp_path, monkeypatch):
    """Runs a page's blocks in an empty folder and returns their namespace."""
    # What a page registers ends with its test.
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    monkeypatch.setattr(known_losses, "_LOSSES", dict(known_losses._LOSSES))
    monkeypatch.chdir(tmp_path)
    page = ROOT / path
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": page.stem}
    found = list(_BLOCK.finditer(text))
    assert found, f"{path} has no Python blocks"
    for block in found:
        # Empty lines in front, so that a traceback shows the page's line numbers.
        above = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(above + block[1], page, "exec"), namespace)
    return namespace
