"""Checks that the built site has every public name two clicks from its first page.

    python scripts/site/check_names.py build/site

The first click is on the tab or in the navigation, the second in the list of contents.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pages_of_code import packages

ROOT = Path(__file__).resolve().parents[2]


def missing(site: Path, root: Path = ROOT) -> list[str]:
    """Returns the public names without a place of their own that the site's contents lead to."""
    overview = (site / "reference" / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'href="\.?/?([\w.]+)/#([\w.]+)"', overview))
    found = []
    for package, names in packages(root).items():
        page = (site / "reference" / package / "index.html").read_text(encoding="utf-8")
        for name in names:
            full = f"{package}.{name}"
            places = page.count(f'id="{full}"')
            listed = f'href="#{full}"' in page
            if places != 1 or not listed or (package, full) not in linked:
                found.append(full)
    return found


if __name__ == "__main__":
    if absent := missing(Path(sys.argv[1])):
        sys.exit(
            f"Expected a place and links for every public name, found none for {absent[:5]} and "
            f"{max(0, len(absent) - 5)} more: does its package's __init__ export it?"
        )
