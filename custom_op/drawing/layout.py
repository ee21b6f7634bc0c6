"""Arranges the nodes of a picture: layers from top to bottom, scopes as boxes around them.

The layered method (Sugiyama, Tagawa and Toda 1981; Gansner, Koutsofios, North and Vo 1993):
ranks that make edges short, an order within each rank that crosses few of them, and coordinates
that keep them straight. The ranks and the coordinates are linear programs. A scope is an interval
of ranks and of coordinates that no outside node enters: its parts are ordered among themselves, and
the whole among its neighbors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import optimize, sparse

from custom_op.drawing.graph import Graph, Scope

# The ranks of scopes, (first, last); the parts of each scope in order; pairs of items.
_Part = str | Scope
_Spans = dict[Scope, tuple[int, int]]
_Order = dict[Scope, list[_Part]]
_Edges = list[tuple[str, str]]

CHARACTER, LINE, PADDING, GAP, RANK_GAP, TITLE = 6.7, 15.0, 10.0, 18.0, 34.0, 20.0
SWEEPS = 24


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle, in pixels from the upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclasses.dataclass
class Layout:
    """The boxes of nodes and scopes, and the points that each edge passes, from its start."""

    width: float
    height: float
    nodes: dict[str, Box]
    scopes: dict[Scope, Box]
    edges: dict[tuple[str, str], list[tuple[float, float]]]


@dataclasses.dataclass
class _Item:
    """A node, or the point where an edge crosses a rank."""

    rank: int
    scope: Scope
    width: float
    real: bool
    x: float = 0.0


def arrange(graph: Graph) -> Layout:
    """Returns the layout of a graph."""
    ranks = _ranks(graph)
    items = {
        key: _Item(
            ranks[key],
            node.scope,
            max(CHARACTER * max(len(node.label), 0.85 * len(node.detail)) + 2.6 * PADDING, 44.0),
            True,
        )
        for key, node in graph.nodes.items()
    }
    spans = _spans(items.values())
    chains = _chains(graph, items, spans)
    segments = [pair for chain in chains.values() for pair in zip(chain, chain[1:], strict=False)]
    order = _order(items, spans, segments)
    left, right = _coordinates(items, spans, segments, order)
    return _finish(graph, items, spans, chains, left, right)


def _ranks(graph: Graph) -> dict[str, int]:
    """Returns ranks that point every edge downward, with the smallest sum of edge heights."""
    keys = {key: i for i, key in enumerate(graph.nodes)}
    edges = _downward(graph)
    if not edges:
        return dict.fromkeys(keys, 0)
    rows = np.arange(len(edges)).repeat(2)
    columns = np.array([[keys[a], keys[b]] for a, b in edges]).reshape(-1)
    matrix = sparse.csr_array((np.tile([1.0, -1.0], len(edges)), (rows, columns)))
    matrix.resize(len(edges), len(keys))
    cost = -matrix.sum(axis=0)
    solution = optimize.linprog(cost, matrix, -np.ones(len(edges)), method="highs-ds")
    found = np.round(solution.x - solution.x.min()).astype(int)
    levels = {level: i for i, level in enumerate(sorted(set(found)))}
    return {key: levels[found[i]] for key, i in keys.items()}


def _downward(graph: Graph) -> list[tuple[str, str]]:
    """Returns the edges, reversing those that close a cycle, as merged scopes may."""
    following: dict[str, list[str]] = {key: [] for key in graph.nodes}
    for a, b in graph.edges:
        following[a].append(b)
    finished: dict[str, int] = {}
    for root in graph.nodes:
        stack = [(root, iter(following[root]))]
        seen = {root}
        while stack and root not in finished:
            key, rest = stack[-1]
            successor = next((b for b in rest if b not in finished and b not in seen), None)
            if successor is None:
                finished[stack.pop()[0]] = len(finished)
            else:
                seen.add(successor)
                stack.append((successor, iter(following[successor])))
    # Nodes that the search finishes first lie below.
    return [(a, b) if finished[a] > finished[b] else (b, a) for a, b in graph.edges]


def _spans(items: Iterable[_Item]) -> dict[Scope, tuple[int, int]]:
    """Returns the first and the last rank of each scope, including the whole picture."""
    spans: dict[Scope, tuple[int, int]] = {}
    for item in items:
        for depth in range(len(item.scope) + 1):
            scope = item.scope[:depth]
            low, high = spans.get(scope, (item.rank, item.rank))
            spans[scope] = min(low, item.rank), max(high, item.rank)
    return spans


def _chains(
    graph: Graph, items: dict[str, _Item], spans: _Spans
) -> dict[tuple[str, str], list[str]]:
    """Returns each edge's items from top to bottom, with a new item at each rank it crosses."""
    chains = {}
    for a, b in graph.edges:
        top, bottom = (a, b) if items[a].rank <= items[b].rank else (b, a)
        chain = [top]
        for rank in range(items[top].rank + 1, items[bottom].rank):
            key = f"{a} -> {b} @{rank}"
            scope = _scope_of_passage(items[top].scope, items[bottom].scope, rank, spans)
            items[key] = _Item(rank, scope, 4.0, False)
            chain.append(key)
        chain.append(bottom)
        chains[a, b] = chain
    return chains


def _scope_of_passage(above: Scope, below: Scope, rank: int, spans: _Spans) -> Scope:
    """Returns the innermost scope of either end that is open at a rank."""
    common = 0
    while above[: common + 1] == below[: common + 1] and common < min(len(above), len(below)):
        common += 1
    for scope, depths in (
        (above, range(len(above), common, -1)),
        (below, range(len(below), common, -1)),
    ):
        for depth in depths:
            low, high = spans[scope[:depth]]
            if low <= rank <= high:
                return scope[:depth]
    return above[:common]


def _children(items: dict[str, _Item], spans: _Spans) -> dict[Scope, list[str | Scope]]:
    children: dict[Scope, list[str | Scope]] = {scope: [] for scope in spans}
    for scope in spans:
        if scope:
            children[scope[:-1]].append(scope)
    for key, item in items.items():
        children[item.scope].append(key)
    return children


def _order(
    items: dict[str, _Item], spans: _Spans, segments: _Edges
) -> dict[Scope, list[str | Scope]]:
    """Orders the parts of every scope by the mean position of their neighbors."""
    children = _children(items, spans)
    above: dict[str, list[str]] = {key: [] for key in items}
    below: dict[str, list[str]] = {key: [] for key in items}
    for a, b in segments:
        below[a].append(b)
        above[b].append(a)
    for i, item in enumerate(items.values()):
        item.x = float(i)
    order = {scope: list(parts) for scope, parts in children.items()}
    _pack(items, spans, order)
    best, fewest = order, _crossings(items, segments)
    by_rank: dict[int, list[str]] = {}
    for key, item in items.items():
        by_rank.setdefault(item.rank, []).append(key)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for rank in sorted(by_rank, reverse=not down):
            for key in by_rank[rank]:
                near = (above if down else below)[key]
                if near:
                    items[key].x = float(np.mean([items[other].x for other in near]))
        order = {scope: _sorted(parts, items) for scope, parts in order.items()}
        _pack(items, spans, order)
        crossings = _crossings(items, segments)
        if crossings < fewest:
            best, fewest = order, crossings
    return best


def _sorted(parts: list[_Part], items: dict[str, _Item]) -> list[_Part]:
    def place(part: _Part) -> float:
        if isinstance(part, str):
            return items[part].x
        inside = [item.x for item in items.values() if item.scope[: len(part)] == part]
        return float(np.mean(inside))

    return sorted(parts, key=place)


def _pack(items: dict[str, _Item], spans: _Spans, order: _Order) -> None:
    """Moves everything as far left as the order allows; sets the items' x."""

    def pack(scope: Scope, start: float) -> float:
        low, high = spans[scope]
        edge = np.full(high - low + 1, start)
        for part in order[scope]:
            if isinstance(part, str):
                place = slice(items[part].rank - low, items[part].rank - low + 1)
                items[part].x = float(edge[place].max()) + items[part].width / 2
                end = items[part].x + items[part].width / 2
            else:
                first, last = spans[part]
                place = slice(first - low, last - low + 1)
                end = pack(part, float(edge[place].max()) + PADDING) + PADDING
            edge[place] = end + GAP
        return float(edge.max()) - GAP

    pack((), 0.0)


def _crossings(items: dict[str, _Item], segments: _Edges) -> int:
    by_rank: dict[int, list[tuple[float, float]]] = {}
    for a, b in segments:
        by_rank.setdefault(items[a].rank, []).append((items[a].x, items[b].x))
    count = 0
    for pairs in by_rank.values():
        ends = np.array(pairs)
        first, second = np.sign(ends[:, None] - ends[None]).transpose(2, 0, 1)
        count += int(np.sum(first * second < 0)) // 2
    return count


def _coordinates(
    items: dict[str, _Item], spans: _Spans, segments: _Edges, order: _Order
) -> tuple[dict[_Part, float], dict[_Part, float]]:
    """Returns the left and right ends of all items and scopes, with edges as vertical as possible.

    Minimizes the weighted sum of the edges' widths, in which long edges weigh more, subject to the
    order and the gaps.

    Returns:
      The left ends and the right ends.
    """
    parts: list[str | Scope] = [*items, *spans]
    column = {part: i for i, part in enumerate(parts)}
    # An item's variable is its center; a scope has two, for its ends.
    ends = {scope: len(parts) + i for i, scope in enumerate(spans)}
    slack = len(parts) + len(spans)
    rows: list[list[tuple[int, float]]] = []
    bounds: list[float] = []

    def left(part: _Part) -> tuple[int, float]:
        return column[part], (items[part].width / 2 if isinstance(part, str) else 0.0)

    def right(part: _Part) -> tuple[int, float]:
        return (column[part], items[part].width / 2) if isinstance(part, str) else (ends[part], 0.0)

    def apart(a: tuple[int, float], b: tuple[int, float], gap: float) -> None:
        """Puts b to the right of a, with a gap."""
        rows.append([(a[0], 1.0), (b[0], -1.0)])
        bounds.append(-gap - a[1] - b[1])

    for scope, inside in order.items():
        low, high = spans[scope]
        for rank in range(low, high + 1):
            here = [part for part in inside if _covers(part, rank, items, spans)]
            for a, b in zip(here, here[1:], strict=False):
                apart(right(a), left(b), GAP)
        for part in inside:
            apart((column[scope], 0.0), left(part), PADDING)
            apart(right(part), (ends[scope], 0.0), PADDING)
        if scope:
            title = CHARACTER * len(scope[-1]) + 2 * PADDING
            apart((column[scope], 0.0), (ends[scope], 0.0), title)
    cost = np.zeros(slack + len(segments))
    for i, (a, b) in enumerate(segments):
        weight = {2: 1.0, 1: 2.0, 0: 8.0}[items[a].real + items[b].real]
        cost[slack + i] = weight
        for sign in (1.0, -1.0):
            rows.append([(column[a], sign), (column[b], -sign), (slack + i, -1.0)])
            bounds.append(0.0)
    for scope in spans:
        cost[column[scope]] -= 0.05
        cost[ends[scope]] += 0.05
    entries = [(i, j, value) for i, row in enumerate(rows) for j, value in row]
    row_of, column_of, values = (np.array(axis) for axis in zip(*entries, strict=True))
    matrix = sparse.csr_array((values, (row_of, column_of)), shape=(len(rows), len(cost)))
    x = optimize.linprog(cost, matrix, bounds, bounds=(0, None), method="highs").x
    lefts = {part: x[column[part]] - left(part)[1] for part in parts}
    rights = {part: x[right(part)[0]] + right(part)[1] for part in parts}
    return lefts, rights


def _covers(part: _Part, rank: int, items: dict[str, _Item], spans: _Spans) -> bool:
    if isinstance(part, str):
        return items[part].rank == rank
    low, high = spans[part]
    return low <= rank <= high


def _finish(
    graph: Graph,
    items: dict[str, _Item],
    spans: _Spans,
    chains: dict[tuple[str, str], list[str]],
    left: dict[_Part, float],
    right: dict[_Part, float],
) -> Layout:
    heights: dict[int, float] = {}
    for key, node in graph.nodes.items():
        height = _height(node.detail)
        heights[items[key].rank] = max(heights.get(items[key].rank, 0.0), height)
    over = {scope: _stacked(scope, spans, 0, TITLE) for scope in spans}
    under = {scope: _stacked(scope, spans, 1, PADDING) for scope in spans}
    y, top, bottom = 0.0, {}, {}
    for rank in range(max(heights) + 1):
        opening = [over[s] for s, span in spans.items() if s and span[0] == rank]
        closing = [under[s] for s, span in spans.items() if s and span[1] == rank]
        top[rank] = y + max(opening, default=0.0)
        bottom[rank] = top[rank] + heights[rank]
        y = bottom[rank] + max(closing, default=0.0) + RANK_GAP
    nodes = {}
    for key, node in graph.nodes.items():
        height = _height(node.detail)
        middle = (top[items[key].rank] + bottom[items[key].rank]) / 2
        nodes[key] = Box(left[key], middle - height / 2, right[key] - left[key], height)
    scopes = {}
    for scope, (low, high) in spans.items():
        if scope:
            start, end = top[low] - over[scope], bottom[high] + under[scope]
            scopes[scope] = Box(left[scope], start, right[scope] - left[scope], end - start)
    edges = {}
    for (a, b), chain in chains.items():
        points = []
        for i, key in enumerate(chain):
            centre = (left[key] + right[key]) / 2
            if key in nodes:
                box = nodes[key]
                points.append((centre, box.y + box.height if i == 0 else box.y))
            else:
                points += [(centre, top[items[key].rank]), (centre, bottom[items[key].rank])]
        edges[a, b] = points if chain[0] == a else points[::-1]
    return Layout(right[()] + PADDING, y - RANK_GAP, nodes, scopes, edges)


def _height(detail: str) -> float:
    return LINE * (2 if detail else 1) + PADDING


def _stacked(scope: Scope, spans: _Spans, end: int, each: float) -> float:
    """Returns the height of the titles, or margins, of a scope and of those that share its end."""
    inner: Sequence[Scope] = [
        other
        for other in spans
        if len(other) == len(scope) + 1
        and other[:-1] == scope
        and spans[other][end] == spans[scope][end]
    ]
    return each + max((_stacked(other, spans, end, each) for other in inner), default=0.0)
