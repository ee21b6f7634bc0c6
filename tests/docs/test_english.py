"""Pages, docstrings, comments and help are written as a native reader expects.

Each pattern is a habit of translated English; the right-hand side says what to write.
"""

import io
import re
import tokenize

from tests.project import ROOT

_THINGS = (
    "one|once|twice|times|value|number|step|product|gradient|evaluation|line|file|image|example|"
    "second|minute|byte|kilobyte|MB|row|tensor|LSTM|weight|process|curve|color|name|"
    "entry|vector|matrix|scalar|list|plot|page|folder|seed|batch|parameter|rate|factor|epoch|"
    "loss|item|key|two|three|four|five|ten|hundred|thousand|graph|share"
)
_EACH = (
    "step|iteration|example|batch|image|parameter|coordinate|layer|class|process|row|second|"
    "minute|core|optimizer|package|commit|file|group|block|seed|task|network|product|leaf|call|"
    "day|meta-step|node|cell|line|thread|unit|epoch|case|variable|tensor|hyperparameter|"
    "dimension|axis|kind|role|run|name|entry|channel|pixel|key|loss|page|test|setting|machine|"
    "training|snapshot|direction|vector|method|operation|op|point|function|weight|column|update"
)
PATTERNS = {
    rf"\b(?:{_THINGS})s? an? (?:{_EACH})\b": 'say "per" or "for each", not "a step"',
    r"\bbut of\b": 'say "except of"',
    r"\b(?:has|have|had) not (?:an?|the|any|its|their)\b": 'say "does not have"',
    r"^ +\*{0,2}\w+: (?:Of|Whose|Theirs)\b": "describe an argument by a noun phrase",
    r"\bgives? \w+ free\b": 'say "releases"',
    r"\bthe others'": 'say "that of the others"',
    r"\bA (\w+) for a \1\b": 'say "per"',
    r"\bwhat is not finite\b": 'say "values that are not finite"',
}
# Keys of files that were written before.
ALLOWED = ('"seconds a step"', "'seconds a step'")


def texts():
    """Yields (path, line, text) of all prose: pages, docstrings, comments and messages."""
    for path in sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")):
        fenced = False
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            fenced ^= line.startswith("```")
            if not fenced and not line.startswith("    "):
                yield path, number, line
    for package in ("benchmarks", "custom_op", "mlhf", "replay", "scripts", "train_val"):
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                if token.type in (tokenize.STRING, tokenize.COMMENT):
                    for offset, line in enumerate(token.string.split("\n")):
                        yield path, token.start[0] + offset, line


def findings():
    """Returns a line for each place that reads as translated."""
    found = []
    for path, number, text in texts():
        for pattern, advice in PATTERNS.items():
            match = re.search(pattern, text)
            if match and not any(allowed in text for allowed in ALLOWED):
                place = f"{path.relative_to(ROOT)}:{number}"
                found.append(f"{place}: {match.group().strip()!r}: {advice}")
    return found


def test_nothing_reads_as_translated():
    assert not findings(), "\n".join(findings())
