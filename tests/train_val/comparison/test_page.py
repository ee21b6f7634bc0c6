import dataclasses
import math
import re
import shutil
import struct
import subprocess
from xml.etree import ElementTree

import pytest

from tests.train_val.comparison.problems import score
from train_val.comparison import Cost, page, summarize
from train_val.comparison.charts import Series, _log_ticks, _ticks, chart
from train_val.comparison.styles import styles

HTML = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def text():
    nan = math.nan
    scores = [
        score('Adam <&> "co"', [8.0, 4.0, 2.0, 1.0], [8.0, 4.5, 2.1, 1.2], optimizer="adam"),
        score("Dead", [8.0, 1e9, nan, nan], [8.0, nan, nan, nan], diverged_at=2),
        *[score(f"hf:cg={k}", [8.0, 7.0 - k / 2, 3.0, 2.0 + k]) for k in range(4)],
        *[score(name, [8.0, 7.0, 3.0, 2.0]) for name in ("sgd", "RMSprop", "meta", "kfac", "x")],
    ]
    scores[2] = dataclasses.replace(scores[2], cost=Cost(3.5, 3.0, 0.3, 0.1, 10**9))
    scores[1] = dataclasses.replace(
        scores[1], curves=[dataclasses.replace(c, note="not <finite>") for c in scores[1].curves]
    )
    rows, _ = summarize(scores, [1, 3])
    return page(
        "A & B",
        scores,
        rows,
        explanation=["How it was done."],
        facts={"problem": "x < y"},
        command="python x.py --a='<b>'",
    )


def test_it_is_well_formed_and_complete(text):
    # Written so that it is XML too: what a parser of XML accepts has no open or crossed tags.
    tree = ElementTree.fromstring(text.partition("\n")[2])
    assert tree.find("head/title").text == "A & B"
    rows = tree.findall(".//tbody/tr")
    assert len(rows) == 11 and {len(row) for row in rows} == {len(tree.findall(".//thead/tr/th"))}
    assert rows[0][0].text == 'Adam <&> "co"'
    charts = [svg for svg in tree.iter("svg") if svg.get("class") == "chart"]
    assert len(charts) == 4
    for svg in charts:
        lines = [p for p in svg.iter("path") if "line" in p.get("class", "").split()]
        assert len(lines) == 11
        for line in lines:
            numbers = [float(x) for x in re.findall(r"-?[\d.]+", line.get("d"))]
            assert all(math.isfinite(x) for x in numbers)
    # Colors and markers differ by family; dashes tell its members apart.
    dots = {p.get("data-series"): p for p in svg.iter("path") if " dot" in p.get("class", "")}
    keys = {
        (p.get("class"), dots[p.get("data-series")].get("d"), p.get("stroke-dasharray"))
        for p in lines
    }
    assert len(keys) == 11
    members = [line for line in lines if line.find("title").text.startswith("hf")]
    assert len({line.get("class") for line in members}) == 1
    assert len({c.get("id") for c in tree.iter("clipPath")}) == 4
    # The more bands lie over each other, the fainter they are.
    assert ":root { --band: 0.091; }" in tree.find("head/style").text
    assert "not <finite>" in [element.text for element in tree.iter("dd")]
    assert tree.find(".//pre").text == "python x.py --a='<b>'"


def test_nothing_is_fetched(text):
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#clip-)|<link|<img|src=", text)


def test_the_curve_stands_where_it_should(text):
    tree = ElementTree.fromstring(text.partition("\n")[2])
    chart = next(svg for svg in tree.iter("svg") if svg.get("class") == "chart")
    adam = next(p for p in chart.iter("path") if " line" in p.get("class", ""))
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", adam.get("d"))[1:]]
    xs, ys = zip(*points, strict=True)
    steps = [xs[k + 1] - xs[k] for k in range(3)]
    assert max(steps) - min(steps) < 0.2
    # 8, 4.25, 2.05, 1.1 on a logarithmic axis.
    heights = [math.log(8 / loss) for loss in (8, 4.25, 2.05, 1.1)]
    scale = (ys[3] - ys[0]) / heights[3]
    for y, height in zip(ys, heights, strict=True):
        assert y - ys[0] == pytest.approx(scale * height, abs=0.15)
    # What explodes does not squeeze the others.
    assert ys[3] - ys[0] > 60


@pytest.mark.parametrize("low, high", [(0, 1), (0, 200), (0.03, 0.031), (0, 7.3e-4), (12, 3456)])
def test_ticks_are_few_and_round(low, high):
    ticks = _ticks(low, high)
    assert 3 <= len(ticks) <= 9 and low <= ticks[0] and ticks[-1] <= high


@pytest.mark.parametrize(
    "low, high",
    [
        *[(1.1, 2.3), (1e-7, 2.0), (0.02, 2.5), (0.9, 9), (1e-12, 1)],
        # Within a factor of 1.5, where powers of ten and their multiples are not.
        *[(2.21, 2.29), (1.1, 1.45), (0.62, 0.79), (0.95, 1.05), (3.1e-7, 3.2e-7)],
    ],
)
def test_logarithmic_ticks_are_few_and_round(low, high):
    ticks = _log_ticks(low, high)
    assert 2 <= len(ticks) <= 10 and low <= ticks[0] and ticks[-1] <= high


def test_ticks_of_a_narrow_logarithmic_axis_stand_at_their_values():
    line = Series("Adam", 0, styles(["adam"])[0], [0, 1, 2], [2.29, 2.25, 2.21])
    tree = ElementTree.fromstring(chart("Loss", [line], "steps", "loss", log=True))
    labels = [t for t in tree.iter("text") if t.get("text-anchor") == "end"]
    values = [float(label.text) for label in labels]
    heights = [float(label.get("y")) for label in labels]
    assert len(values) >= 4
    drawn = next(p for p in tree.iter("path") if " line" in p.get("class", "")).get("d")
    (_, top), *_, (_, bottom) = [tuple(map(float, p.split())) for p in re.split("[ML]", drawn)[1:]]
    for value, height in zip(values, heights, strict=True):
        share = math.log(2.29 / value) / math.log(2.29 / 2.21)
        # The text's base line is 4 below its middle.
        assert height - 4 == pytest.approx(top + share * (bottom - top), abs=0.2)


@pytest.mark.slow
def test_a_browser_shows_it(text, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    path, shot = tmp_path / "page.html", tmp_path / "shot.png"
    # The script runs: it sorts by the first column, and says so in the title of the page.
    probe = (
        "<script>document.querySelector('thead button').click();"
        "document.querySelector('.legend button').click();"
        "document.title = document.querySelector('tbody tr').cells[0].textContent + ':' +"
        "document.querySelectorAll('.hidden').length</script></body>"
    )
    path.write_text(text.replace("</body>", probe))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    flags += "--disable-background-networking --disable-component-update --disable-sync"
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    page_url = path.as_uri()
    dom = subprocess.run(
        [*command, "--dump-dom", page_url], capture_output=True, text=True, timeout=120
    ).stdout
    # One band, one line and four markers in each of four charts, less the bands by second.
    assert '<title>Adam &lt;&amp;&gt; "co":22</title>' in dom
    subprocess.run(
        [*command, "--window-size=1280,900", f"--screenshot={shot}", page_url],
        capture_output=True,
        timeout=120,
    )
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (1280, 900)
