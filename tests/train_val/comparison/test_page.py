import dataclasses
import importlib
import math
import re
import shutil
import struct
import subprocess
from xml.etree import ElementTree

import pytest

from tests.train_val.comparison.problems import score
from train_val.comparison import Cost, page, summarize
from train_val.comparison.charts import charts
from train_val.comparison.styles import styles

HTML = "{http://www.w3.org/1999/xhtml}"


def group(svg, number):
    """The group of a chart that holds an optimizer's line."""
    return next(
        g for g in svg.iter("g") if g.get("data-series") == str(number) and line_of(g) is not None
    )


def line_of(part):
    found = re.compile("fill: none;.* stroke: var")
    return next((p for p in part.iter("path") if found.match(p.get("style", ""))), None)


def look(part, svg):
    """Color, dashes and outline of the marker, which may stand in another part of the chart."""
    style = dict(pair.split(": ") for pair in line_of(part).get("style").split("; "))
    marker = svg.find(f".//*[@id='{part.find('.//use').get('href')[1:]}']")
    return style["stroke"], style.get("stroke-dasharray"), marker.get("d")


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
    drawn = [svg for svg in tree.iter("svg") if svg.get("class") == "chart"]
    assert len(drawn) == 4
    for svg in drawn:
        lines = [group(svg, number) for number in range(11)]
        assert svg.get("role") == "img" and svg.get("aria-label")
        for number in range(11):
            assert (
                svg.find(f".//*[@data-series='{number}']/title").text
                == rows[number][0].text.split(" (diverged")[0]
            )
    # Colors and markers differ by family; dashes tell its members apart.
    looks = [look(line, svg) for line in lines]
    assert len(set(looks)) == 11
    assert len({color for color, _, _ in looks[2:6]}) == 1
    known = [part.get("id") for part in tree.iter() if part.get("id")]
    assert len(known) == len(set(known))
    # The more bands lie over each other, the fainter they are.
    assert "fill-opacity: 0.09" in text
    assert "not <finite>" in [element.text for element in tree.iter("dd")]
    assert tree.find(".//pre").text == "python x.py --a='<b>'"


def test_nothing_is_fetched(text):
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#p)|<link|<img|src=", text)


def test_the_curve_stands_where_it_should(text):
    tree = ElementTree.fromstring(text.partition("\n")[2])
    chart = next(svg for svg in tree.iter("svg") if svg.get("class") == "chart")
    adam = line_of(group(chart, 0))
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


def test_a_narrow_axis_has_ticks_that_can_be_read():
    scores = [score("adam", [2.29, 2.25, 2.21])]
    svg = charts(scores, styles(["adam"]))[0]
    texts = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("text")]
    losses = [float(text) for text in texts if re.fullmatch(r"2\.2\d*", text)]
    assert len(losses) >= 2 and all(2.1 < loss < 2.4 for loss in losses)


def test_a_legend_has_the_look_of_the_lines(text):
    tree = ElementTree.fromstring(text.partition("\n")[2])
    chart = next(svg for svg in tree.iter("svg") if svg.get("class") == "chart")
    for number, button in enumerate(tree.findall(".//button[@value]")):
        assert look(button.find("svg"), button) == look(group(chart, number), chart)


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
    # One band and one line in each of four charts, less the bands by second.
    assert '<title>Adam &lt;&amp;&gt; "co":6</title>' in dom
    subprocess.run(
        [*command, "--window-size=1280,900", f"--screenshot={shot}", page_url],
        capture_output=True,
        timeout=120,
    )
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (1280, 900)


def test_narrow_screens_have_the_last_word():
    # A rule of the same weight further down would win over the one for narrow screens.
    sheet = importlib.import_module("train_val.comparison.page")._STYLE
    before, _, narrow = sheet.partition("@media (max-width: 520px) {")
    for selector in ("main {", "dl {", "dd {", "td:nth-child(2) {", "thead th {"):
        assert selector in before and selector in narrow
    # The block ends the sheet.
    assert narrow.count("}") - narrow.count("{") == 1 and narrow.rstrip().endswith("} }")
