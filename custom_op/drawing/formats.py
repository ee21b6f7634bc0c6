"""Writes a graph as DOT text, and a layout as SVG."""

from __future__ import annotations

from xml.sax.saxutils import escape

from custom_op.drawing.graph import Graph, Node, Scope
from custom_op.drawing.layout import CHARACTER, LINE, PADDING, TITLE, Box, Layout

MARGIN = 12.0
# Fill and line. Kinds differ in shape too: variables are boxes, operations ovals.
COLORS = {
    "variable": ("#fde0dd", "#c0392b"),
    "constant": ("#f2f2f2", "#8a8a8a"),
    "operation": ("#deebf7", "#2c6fa6"),
    "group": ("#c6dbef", "#2c6fa6"),
    "output": ("#e2f2df", "#3a8a34"),
}
SCOPE_FILLS = ("#fafafa", "#f3f3f6")


def dot(graph: Graph, name: str) -> str:
    """Returns a graph in the language of Graphviz, with scopes as clusters."""
    ids = {key: f"n{i}" for i, key in enumerate(graph.nodes)}
    lines = [f"digraph {_quoted(name)} {{"]
    lines.append('  node [fontname="Helvetica", fontsize=11];')
    lines.append('  graph [fontname="Helvetica", fontsize=11];')
    scopes = sorted(
        {node.scope[:i] for node in graph.nodes.values() for i in range(len(node.scope) + 1)}
    )

    def write(scope: Scope, indent: str) -> None:
        for node in graph.nodes.values():
            if node.scope == scope:
                lines.append(f"{indent}{ids[node.key]} [{_attributes(node)}];")
        for inner in scopes:
            if len(inner) == len(scope) + 1 and inner[: len(scope)] == scope:
                lines.append(f"{indent}subgraph {_quoted('cluster ' + '/'.join(inner))} {{")
                lines.append(f"{indent}  label={_quoted(inner[-1])};")
                write(inner, indent + "  ")
                lines.append(f"{indent}}}")

    write((), "  ")
    lines += [f"  {ids[a]} -> {ids[b]};" for a, b in graph.edges]
    return "\n".join([*lines, "}", ""])


def _attributes(node: Node) -> str:
    fill, line = COLORS[node.kind]
    shape = {"operation": "ellipse", "group": "box3d"}.get(node.kind, "box")
    # Graphviz reads \n in a label as the end of a line.
    label = "\\n".join(_quoted(text)[1:-1] for text in (node.label, node.detail) if text)
    return (
        f'label="{label}", shape={shape}, style=filled, fillcolor="{fill}", color="{line}", '
        f"tooltip={_quoted(node.key)}"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def svg(graph: Graph, layout: Layout, name: str) -> str:
    """Returns a layout as a self-contained SVG picture."""
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-MARGIN:g} {-MARGIN:g} {width:.1f} {height:.1f}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f"<title>{escape(name)}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0.8 L8,4 L0,7.2 z" fill="#555"/></marker>'
        "</defs>",
        f'<rect x="{-MARGIN:g}" y="{-MARGIN:g}" width="{width:.1f}" height="{height:.1f}" '
        'fill="white"/>',
    ]
    for scope, box in sorted(layout.scopes.items(), key=lambda pair: len(pair[0])):
        fill = SCOPE_FILLS[len(scope) % 2]
        lines.append(
            f'<g class="scope"><title>{escape("/".join(scope))}</title>'
            f'<rect {_rectangle(box)} rx="4" fill="{fill}" stroke="#b5b5bd"/></g>'
        )
    for (a, b), points in layout.edges.items():
        lines.append(
            f'<g class="edge"><title>{escape(f"{a} to {b}")}</title><path d="{_curve(points)}" '
            'fill="none" stroke="#555" stroke-opacity="0.8" marker-end="url(#arrow)"/></g>'
        )
    for scope, box in layout.scopes.items():
        # Above the edges, on its own background.
        ground = Box(box.x + 4, box.y + 2, CHARACTER * len(scope[-1]) + 6, TITLE - 5)
        lines.append(
            f'<g class="title"><rect {_rectangle(ground)} fill="{SCOPE_FILLS[len(scope) % 2]}" '
            f'fill-opacity="0.85"/><text x="{box.x + 7:.1f}" y="{box.y + TITLE - 7:.1f}" '
            f'fill="#55555f" font-size="11">{escape(scope[-1])}</text></g>'
        )
    for key, box in layout.nodes.items():
        lines.append(_node(graph.nodes[key], box))
    return "\n".join([*lines, "</svg>", ""])


def _rectangle(box: Box) -> str:
    return f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'


def _node(node: Node, box: Box) -> str:
    fill, line = COLORS[node.kind]
    style = f'fill="{fill}" stroke="{line}"'
    radius = box.height / 2 if node.kind == "operation" else 0
    shape = f'<rect {_rectangle(box)} rx="{radius:.1f}" {style}/>'
    if node.kind == "group":
        behind = Box(box.x + 3, box.y + 3, box.width, box.height)
        shape = f"<rect {_rectangle(behind)} {style}/>" + shape
    middle = box.x + box.width / 2
    first = box.y + PADDING / 2 + LINE - 3.5
    texts = _text(node.label, middle, first, "#111", 12)
    if node.detail:
        texts += _text(node.detail, middle, first + LINE, "#666", 10)
    return f'<g class="node {node.kind}"><title>{escape(node.key)}</title>{shape}{texts}</g>'


def _text(content: str, x: float, y: float, color: str, size: int) -> str:
    # The length is set where a wider font than the planned one would leave the box.
    longest = CHARACTER * len(content) * size / 12
    fit = (
        f' textLength="{longest:.1f}" lengthAdjust="spacingAndGlyphs"' if len(content) > 24 else ""
    )
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" fill="{color}" '
        f'font-size="{size}"{fit}>{escape(content)}</text>'
    )


def _curve(points: list[tuple[float, float]]) -> str:
    (x, y), *rest = points
    path = f"M{x:.1f},{y:.1f}"
    for next_x, next_y in rest:
        if next_x == x:
            path += f" L{next_x:.1f},{next_y:.1f}"
        else:
            middle = (y + next_y) / 2
            path += f" C{x:.1f},{middle:.1f} {next_x:.1f},{middle:.1f} {next_x:.1f},{next_y:.1f}"
        x, y = next_x, next_y
    return path
