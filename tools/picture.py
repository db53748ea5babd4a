"""Draws `docs/architecture.svg` from what the stacks' programs declare: `python -m tools.picture`.

The programs register their resources and dependencies under Pulumi's mocks. The state of a deployed stack has the same
ones (tests/deployment/test_local_pipeline.py compares the two), but would require a deployment.

Graphviz computes the layout; it comes with pygraphviz's wheels. Boxes have fixed sizes and coordinates are rounded to
whole pixels, so the picture does not depend on a machine's fonts and arithmetic.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Final

import pygraphviz

from tests.support import stack_program
from xfarm.orchestrator.graph import dependencies, order
from xfarm.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.stack_program import Program

PICTURE: Final = ROOT / "docs" / "architecture.svg"

MAIN: Final = {"aws:s3/bucket:Bucket", "aws:sqs/queue:Queue", "aws:lambda/function:Function"}
"""The types on the path of a file."""

NEXT: Final = {
    "aws:s3/bucketNotification:BucketNotification",
    "aws:sqs/redrivePolicy:RedrivePolicy",
    "aws:lambda/eventSourceMapping:EventSourceMapping",
}
"""The types that pass a file from one of these to the next."""

REFERENCE: Final = "pulumi:pulumi:StackReference"

CHARACTER_PX: Final = {"main": 7.8, "words": 5}
"""The average width of a character in a wide font, by kind of box, if it is not 6.4."""

LEGEND: Final = (
    "An arrow points from a resource to what depends on it. Violet: outputs that a stack reads of another. "
    "Orange: what passes files on."
)

LINE_PX: Final = 16
"""The height of a line of text."""
PADDING_PX: Final = 10
"""The space around the text of a box."""
GAP_PX: Final = 22
"""The space between frames."""
LANE_PX: Final = 16
"""The space between parallel arrows at the left edge."""
HEADER_PX: Final = 50
"""The height of a frame's heading."""

STYLE: Final = """
svg { --page: #fff; --text: #1f2328; --muted: #59636e; --line: #b3bbc4; --frame: #f6f8fa; --box: #fff;
  --main: #ddf4ff; --main-line: #0969da; --next: #fff1e5; --next-line: #bc4c00; --reference: #8250df; }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --text: #f0f6fc; --muted: #9198a1; --line: #4d5661;
  --frame: #151b23; --box: #0d1117; --main: #12304f; --main-line: #4493f8; --next: #3d2611; --next-line: #f0883e;
  --reference: #ab7df8; } }
text { font: 12px system-ui, sans-serif; fill: var(--text); text-anchor: middle; }
.page { fill: var(--page); }
.frame { fill: var(--frame); stroke: var(--line); }
.box { fill: var(--box); stroke: var(--line); }
.main { fill: var(--main); stroke: var(--main-line); stroke-width: 2; }
.next { fill: var(--next); stroke: var(--next-line); }
.reference { fill: var(--page); stroke: var(--reference); stroke-dasharray: 5 3; }
.edge { fill: none; stroke: var(--muted); stroke-width: 1.2; }
.route { fill: none; stroke: var(--next-line); stroke-width: 2; }
.read { fill: none; stroke: var(--reference); stroke-width: 2; }
.edge-arrow { fill: var(--muted); } .route-arrow { fill: var(--next-line); } .read-arrow { fill: var(--reference); }
.bold { font-weight: 600; } .heading { font-weight: 600; font-size: 14px; text-anchor: start; }
.muted { fill: var(--muted); font-size: 11px; } .left { text-anchor: start; }
"""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box of the picture: a resource, or several of the same type with the same neighbours."""

    lines: tuple[str, ...]
    kind: str

    @property
    def width(self) -> int:
        """The width in pixels, an even number."""
        return int(max(map(len, self.lines)) * CHARACTER_PX.get(self.kind, 6.4)) // 2 * 2 + 2 * PADDING_PX

    @property
    def height(self) -> int:
        """The height in pixels."""
        return len(self.lines) * LINE_PX + PADDING_PX


Edges = set[tuple[str, str]]
"""The start and end of each arrow."""


@dataclass
class Layout:
    """The positions of boxes and arrows, in whole pixels from the upper left corner."""

    boxes: dict[str, tuple[int, int]]
    arrows: dict[tuple[str, str], str]
    width: int
    height: int


def layout(boxes: dict[str, Box], edges: Edges, *, first: Iterable[str] = (), gap_inches: float = 0.35) -> Layout:
    """Return a layout of boxes from left to right along the arrows between them.

    Args:
        boxes: The boxes by name.
        edges: The arrows between these names.
        first: The names of the boxes at the left edge.
        gap_inches: The space between columns.
    """
    graph = pygraphviz.AGraph(directed=True, rankdir="LR", nodesep=0.16, ranksep=gap_inches)
    for name, box in sorted(boxes.items()):
        size = {"width": box.width / 72, "height": box.height / 72}
        graph.add_node(name, shape="box", fixedsize=True, label="", **size)
    graph.add_edges_from(sorted(edges))
    if first:
        graph.add_subgraph(sorted(first), rank="source")
    laid_out = json.loads(graph.draw(format="json", prog="dot") or b"")
    _, _, width, height = map(float, laid_out["bb"].split(","))

    def point(text: str) -> tuple[int, int]:
        x, y = map(float, text.split(","))
        return round(x), round(height - y)

    def path(spline: str) -> str:
        tip, start, *curve = map(point, spline.removeprefix("e,").split())
        return f"M{_pair(start)} C{' '.join(map(_pair, curve))} L{_pair(tip)}"

    names = {each["_gvid"]: each["name"] for each in laid_out["objects"]}
    return Layout(
        boxes={each["name"]: point(each["pos"]) for each in laid_out["objects"] if each["name"] in boxes},
        arrows={(names[each["tail"]], names[each["head"]]): path(each["pos"]) for each in laid_out["edges"]},
        width=round(width),
        height=round(height),
    )


def _pair(point: tuple[int, int]) -> str:
    return "{},{}".format(*point)


def contents(program: Program) -> tuple[dict[str, Box], Edges]:
    """Return boxes for what a program declares, and arrows from each box to those that depend on it.

    Arrows that follow from others are left out: what depends on a policy of a queue also depends on the queue.
    """
    types = program.types | dict.fromkeys(program.references, REFERENCE)
    edges = {(needed, name) for name in types for needed in program.dependencies.get(name, ())}
    neighbours = {
        name: (
            types[name],
            sorted(start for start, end in edges if end == name),
            sorted(end for start, end in edges if start == name),
        )
        for name in types
    }
    boxes: dict[str, Box] = {}
    of: dict[str, str] = {}
    for _, group in groupby(sorted(types, key=lambda name: (neighbours[name], name)), neighbours.__getitem__):
        similar = list(group)
        kind = types[similar[0]]
        for names in [[name] for name in similar] if kind in MAIN | {REFERENCE} else [similar]:
            of |= dict.fromkeys(names, names[0])
            boxes[names[0]] = _box(program, names, kind)
    graph = pygraphviz.AGraph(directed=True)
    graph.add_edges_from(sorted({(of[start], of[end]) for start, end in edges}))
    graph.tred()
    return boxes, {(str(edge[0]), str(edge[1])) for edge in graph.edges()}


def _box(program: Program, names: list[str], kind: str) -> Box:
    if kind == REFERENCE:
        return Box(lines=(f"outputs of {names[0].split('/')[1]}", "StackReference"), kind="reference")
    service, _, type_name = re.fullmatch(r"aws:(\w+)/(\w+):(\w+)", kind).groups()  # pyrefly: ignore[missing-attribute]
    described = f"{service}.{type_name}"
    if kind in MAIN:
        return Box(lines=(_physical(program, names[0]), f"{names[0]}, {described}"), kind="main")
    return Box(lines=(*names, described), kind="next" if kind in NEXT else "box")


def _physical(program: Program, name: str) -> str:
    properties = program.resources[name]
    return properties.get("name") or properties["bucket"]


def route(programs: Iterable[Program]) -> tuple[dict[str, Box], Edges]:
    """Return the path of a file: the resources that it is in or passes through, and between them what passes it on."""
    boxes: dict[str, Box] = {}
    edges: Edges = set()
    for program in programs:
        for name, kind in program.types.items():
            properties = program.resources[name]
            if kind in MAIN:
                boxes[_physical(program, name)] = Box(lines=(_physical(program, name),), kind="main")
            match properties:
                case {"bucket": start, "queues": [{"queueArn": end, "filterPrefix": folder}]}:
                    words = ("notifies of new files", f"under {folder}")
                case {"queueUrl": start, "redrivePolicy": text}:
                    policy = json.loads(text)
                    end, words = policy["deadLetterTargetArn"], (f"after {policy['maxReceiveCount']} receives",)
                case {"eventSourceArn": start, "functionName": end, "batchSize": size}:
                    words = ("calls with", "one message" if size == 1 else f"up to {size:g} messages")
                case {"name": start, "environment": {"variables": {"OUTPUT_PREFIX": folder}}}:
                    end, words = folder, ("writes one JSON", "document per file")
                    boxes[end] = Box(lines=(f"the bucket's {end}",), kind="main")
                case _:
                    continue
            boxes[name] = Box(lines=words, kind="words")
            edges |= {(re.split("[:/]", start)[-1], name), (name, end if end in boxes else re.split("[:/]", end)[-1])}
    return boxes, edges


def _svg(placed: Layout, boxes: dict[str, Box], arrows: str) -> list[str]:
    """Return the SVG elements of a layout, with arrows of the class and marker named `arrows`."""
    words = {name for name, box in boxes.items() if box.kind == "words"}
    lines = [
        f'<path class="{arrows}" d="{path}"' + ("/>" if end in words else f' marker-end="url(#{arrows}-arrow)"/>')
        for (_, end), path in sorted(placed.arrows.items())
    ]
    for name, (x, y) in sorted(placed.boxes.items()):
        box = boxes[name]
        if box.kind != "words":
            lines.append(
                f'<rect class="{box.kind}" x="{x - box.width // 2}" y="{y - box.height // 2}" '
                f'width="{box.width}" height="{box.height}" rx="6"/>'
            )
        for number, line in enumerate(box.lines):
            baseline = y + LINE_PX * number - LINE_PX * (len(box.lines) - 1) // 2 + 4
            muted = box.kind == "words" or (number and number == len(box.lines) - 1)
            style = "muted" if muted else "bold" if box.kind == "main" else ""
            lines.append(f'<text class="{style}" x="{x}" y="{baseline}">{escape(line)}</text>')
    return lines


def draw() -> str:
    """Return the picture: the path of a file, and below it the resources of each stack in the order of deployment."""
    projects = order(dependencies())
    programs = {project: stack_program.run(project, upstream=stack_program.UPSTREAM) for project in projects}
    left = GAP_PX + LANE_PX * len(projects)
    lines: list[str] = []
    route_boxes, route_edges = route(programs.values())
    placed = layout(route_boxes, route_edges, gap_inches=0.2)
    widths = [placed.width]
    route_lines = _svg(placed, route_boxes, "route")
    top = HEADER_PX + placed.height + GAP_PX
    edges_of: dict[str, int] = {}
    for project in projects:
        boxes, edges = contents(programs[project])
        references = {name: name.split("/")[1] for name in sorted(programs[project].references)}
        placed = layout(boxes, edges, first=references)
        widths.append(placed.width + 2 * GAP_PX)
        height = HEADER_PX + placed.height + GAP_PX
        exported = ", ".join(sorted(programs[project].outputs))
        lines += [
            f'<rect class="frame" x="{left}" y="{top}" width="WIDTH" height="{height}" rx="10"/>',
            f'<text class="heading" x="{left + GAP_PX}" y="{top + 24}">stacks/{project}</text>',
            f'<text class="muted left" x="{left + GAP_PX}" y="{top + 41}">exports {exported}</text>',
            f'<g transform="translate({left + GAP_PX},{top + HEADER_PX})">',
            *_svg(placed, boxes, "edge"),
            "</g>",
        ]
        for name, source in references.items():
            x, y = placed.boxes[name]
            lane = left - LANE_PX * (len(projects) - projects.index(source))
            tip = left + GAP_PX + x - boxes[name].width // 2
            lines.append(
                f'<path class="read" d="M{left},{edges_of[source]} H{lane} V{top + HEADER_PX + y} H{tip}" '
                'marker-end="url(#read-arrow)"/>'
            )
        edges_of[project] = top + HEADER_PX // 2
        top += height + GAP_PX
    inner = max(widths)
    width = left + inner + GAP_PX
    lines = [line.replace("WIDTH", str(inner)) for line in lines]
    markers = "".join(
        f'<marker id="{name}-arrow" class="{name}-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{size}" '
        f'markerHeight="{size}" markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0 L8,4 L0,8 Z"/></marker>'
        for name, size in (("edge", 8), ("route", 10), ("read", 10))
    )
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {top + GAP_PX}" width="{width}">',
            "<title>The path of a file, the resources of the three stacks, and what depends on what</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{markers}</defs>",
            f'<rect class="page" width="{width}" height="{top + GAP_PX}"/>',
            f'<text class="heading" x="{left}" y="{GAP_PX + 4}">The path of a file</text>',
            f'<g transform="translate({left},{HEADER_PX - GAP_PX // 2})">',
            *route_lines,
            "</g>",
            *lines,
            f'<text class="muted left" x="{left}" y="{top}">{LEGEND}</text>',
            "</svg>",
            "",
        )
    )


if __name__ == "__main__":
    sys.unraisablehook = lambda _: None  # Pulumi's mocks leave event loops open
    PICTURE.write_text(draw(), encoding="utf-8")
