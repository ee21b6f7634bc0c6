"""Pictures: what they hold, how scopes fold, and that nothing lies on anything else."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.drawing import graph as graphs
from custom_op.drawing import layout

MIXING = tf.Variable(np.eye(4, dtype=np.float32), name="mixing")
X = tf.zeros([3, 4])


def _scalar(x, y):
    return x * y + tf.exp(x + 3)


def _block(x, name):
    with tf.name_scope(name):
        with tf.name_scope("attend"):
            scores = tf.nn.softmax(x @ tf.transpose(x) / 2.0)
        with tf.name_scope("mix"):
            h = tf.nn.gelu((scores @ x) @ MIXING)
        return x + h


def _blocks(x):
    return _block(_block(x, "first"), "second")


def _kinds(picture):
    return sorted((node.kind, node.label) for node in picture.graph.nodes.values())


def test_a_scalar_computation():
    picture = custom_op.draw(_scalar, 3.0, 4.0)
    assert _kinds(picture) == [
        ("constant", "3"),
        ("operation", "AddV2"),
        ("operation", "AddV2"),
        ("operation", "Exp"),
        ("operation", "Mul"),
        ("output", "output"),
        ("variable", "x"),
        ("variable", "y"),
    ]
    labels = {key: node.label for key, node in picture.graph.nodes.items()}
    edges = sorted((labels[a], labels[b]) for a, b in picture.graph.edges)
    assert edges == [
        ("3", "AddV2"),
        ("AddV2", "Exp"),
        ("AddV2", "output"),
        ("Exp", "AddV2"),
        ("Mul", "AddV2"),
        ("x", "AddV2"),
        ("x", "Mul"),
        ("y", "Mul"),
    ]


def test_derivatives_have_graphs_too():
    first = custom_op.draw(_scalar, 3.0, 4.0, derivatives=["reverse"])
    outputs = [label for kind, label in _kinds(first) if kind == "output"]
    assert outputs == ["d(output)/d(x)", "d(output)/d(y)"]
    # d²z/dx² + d²z/dxdy, along ones, needs the exponential again.
    second = custom_op.draw(_scalar, 3.0, 4.0, derivatives=["reverse", "forward"])
    assert ("operation", "Exp") in _kinds(second)
    assert second.name == "forward derivative of reverse derivative of _scalar"


def test_scopes_open_to_a_depth():
    opened = custom_op.draw(_blocks, X)
    scopes = {node.scope for node in opened.graph.nodes.values()}
    assert {("first",), ("first", "attend"), ("second", "mix")} <= scopes
    assert ("variable", "mixing") in _kinds(opened)

    folded = custom_op.draw(_blocks, X, depth=0)
    assert _kinds(folded) == [
        ("group", "first"),
        ("group", "second"),
        ("output", "output"),
        ("variable", "mixing"),
        ("variable", "x"),
    ]
    operations = sum(node.kind == "operation" for node in opened.graph.nodes.values())
    details = [node.detail for node in folded.graph.nodes.values() if node.kind == "group"]
    assert details == [f"{operations // 2} operations"] * 2

    half = custom_op.draw(_blocks, X, depth=1)
    groups = [label for kind, label in _kinds(half) if kind == "group"]
    assert groups == ["attend", "attend", "mix", "mix"]


def _overlap(a, b):
    return (
        min(a.x + a.width, b.x + b.width) - max(a.x, b.x) > 0.1
        and min(a.y + a.height, b.y + b.height) - max(a.y, b.y) > 0.1
    )


def _contains(outer, inner):
    return (
        outer.x <= inner.x + 0.1
        and outer.y <= inner.y + 0.1
        and outer.x + outer.width >= inner.x + inner.width - 0.1
        and outer.y + outer.height >= inner.y + inner.height - 0.1
    )


@pytest.mark.parametrize(
    "settings", [{}, {"depth": 1}, {"derivatives": ["reverse"]}, {"derivatives": ["forward"]}]
)
def test_nothing_overlaps(settings):
    shown = custom_op.draw(_blocks, X, **settings).graph
    placed = layout.arrange(shown)
    for a, b in itertools.combinations(placed.nodes.values(), 2):
        assert not _overlap(a, b)
    whole = layout.Box(0, 0, placed.width, placed.height)
    for key, box in placed.nodes.items():
        assert _contains(whole, box)
        scope = shown.nodes[key].scope
        for other, frame in placed.scopes.items():
            inside = scope[: len(other)] == other
            assert _contains(frame, box) if inside else not _overlap(frame, box)
    for (one, a), (two, b) in itertools.combinations(placed.scopes.items(), 2):
        if one[: len(two)] == two:
            assert _contains(b, a)
        elif two[: len(one)] == one:
            assert _contains(a, b)
        else:
            assert not _overlap(a, b)


def test_edges_run_downward_from_box_to_box():
    shown = custom_op.draw(_blocks, X).graph
    placed = layout.arrange(shown)
    assert set(placed.edges) == set(shown.edges)
    for (a, b), points in placed.edges.items():
        start, end = placed.nodes[a], placed.nodes[b]
        assert points[0] == pytest.approx((start.x + start.width / 2, start.y + start.height))
        assert points[-1] == pytest.approx((end.x + end.width / 2, end.y))
        heights = [y for _, y in points]
        assert heights == sorted(heights)


def test_folding_may_close_a_cycle():
    # Into the scope, out of it, and in again.
    def function(x):
        with tf.name_scope("inner"):
            h = tf.sin(x)
        h = tf.exp(h)
        with tf.name_scope("inner/"):
            return tf.cos(h)

    picture = custom_op.draw(function, 1.0, depth=0)
    assert ("group", "inner") in _kinds(picture)
    ET.fromstring(picture.svg)


def test_the_svg_shows_every_node_once():
    picture = custom_op.draw(_blocks, X)
    root = ET.fromstring(picture.svg)
    drawn = [
        group.find("{*}title").text
        for group in root.iter("{http://www.w3.org/2000/svg}g")
        if group.get("class").startswith("node")
    ]
    assert sorted(drawn) == sorted(picture.graph.nodes)
    kinds = {group.get("class") for group in root.iter("{http://www.w3.org/2000/svg}g")}
    assert {"node variable", "node operation", "node output", "scope", "edge"} <= kinds
    assert picture._repr_svg_() == picture.svg


def test_the_dot_text_has_the_same_nodes_and_edges():
    picture = custom_op.draw(_blocks, X)
    text = picture.dot
    assert text.count("{") == text.count("}")
    assert len(re.findall(r"^\s*n\d+ \[label=", text, re.MULTILINE)) == len(picture.graph.nodes)
    assert len(re.findall(r"n\d+ -> n\d+;", text)) == len(picture.graph.edges)
    assert 'subgraph "cluster first/attend"' in text
    assert "shape=ellipse" in text and "shape=box" in text


def test_labels_are_escaped():
    node = graphs.Node("a", "operation", 'a<"&', "", ())
    picture = custom_op.Picture(graphs.Graph({"a": node}, []), "<title>")
    assert 'label="a<\\"&"' in picture.dot
    ET.fromstring(picture.svg)


def test_save(tmp_path):
    picture = custom_op.draw(_scalar, 3.0, 4.0)
    assert picture.save(tmp_path / "z.svg").read_text(encoding="utf-8") == picture.svg
    assert picture.save(str(tmp_path / "z.dot")).read_text(encoding="utf-8") == picture.dot
    with pytest.raises(ValueError, match=r"\.svg or \.dot, got '.*z\.png'"):
        picture.save(tmp_path / "z.png")


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="got 'reverse'"):
        custom_op.draw(_scalar, 3.0, 4.0, derivatives="reverse")
    with pytest.raises(ValueError, match="got -1"):
        custom_op.draw(_scalar, 3.0, 4.0, depth=-1)
    with pytest.raises(ValueError, match="floating input"):
        custom_op.draw(lambda n: n + 1, 3, derivatives=["reverse"])
