#!/usr/bin/env python3
"""Draws what BENCHMARKS.md shows from what `cargo bench-all --json docs/benchmarks.json` wrote: docs/benchmarks.py."""
import json
import math
import pathlib

HERE = pathlib.Path(__file__).parent
WIDE, HIGH, LEFT, TOP, BOTTOM = 430, 260, 70, 44, 46
INK = {"p50": "#7c9cff", "p99": "#4f46e5", "p99.9": "#c0268f"}


def chart(x, title, names, unit, series):
    """One chart at x: for each name on the x axis a value of each series, on a logarithmic axis."""
    top = max(value for values in series.values() for value in values)
    low = min(value for values in series.values() for value in values)
    floor, ceiling = math.floor(math.log10(low)), math.ceil(math.log10(top))
    inner, height = WIDE - LEFT - 20, HIGH - TOP - BOTTOM
    across = [x + LEFT + inner * (at + 0.5) / len(names) for at in range(len(names))]
    up = lambda value: TOP + height * (1 - (math.log10(value) - floor) / max(1, ceiling - floor))
    out = [f'<text x="{x + LEFT}" y="20" class="title">{title}</text>']
    for power in range(floor, ceiling + 1):
        y, said = up(10**power), f"{10**power:,g} ms"
        out.append(f'<path d="M{x + LEFT} {y:.1f}h{inner}" class="line"/><text x="{x + LEFT - 6}" y="{y + 4:.1f}" class="end">{said}</text>')
    for name, at in zip(names, across):
        out.append(f'<text x="{at:.1f}" y="{HIGH - BOTTOM + 18}" class="middle">{name}</text>')
    out.append(f'<text x="{x + LEFT + inner / 2}" y="{HIGH - 8}" class="middle">{unit}</text>')
    for order, (name, values) in enumerate(series.items()):
        points = " ".join(f"{at:.1f},{up(value):.1f}" for at, value in zip(across, values))
        out.append(f'<polyline points="{points}" stroke="{INK[name]}"/>')
        out += [f'<circle cx="{point.split(",")[0]}" cy="{point.split(",")[1]}" r="3" fill="{INK[name]}"/>' for point in points.split()]
        out.append(f'<text x="{x + LEFT + 46 * order}" y="36" style="fill: {INK[name]}">{name}</text>')
    return "\n".join(out)


figures = json.loads((HERE / "benchmarks.json").read_text())
opened = figures["chat"]["open"]
relayed = [row for row in figures["relay"] if row["conversations"] > 1]
charts = [
    chart(0, "response, chats that begin by the clock", [f"{row['share_percent']} %" for row in opened], "of the best rate", {
        name: [row["response_ms"][key] for row in opened] for name, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"))
    }),
    chart(WIDE, "from PUBLISH to a socket", [f"{row['wanted_per_second']:,}" for row in relayed], "deliveries a second", {
        name: [row[key] for row in relayed] for name, key in (("p50", "p50_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"))
    }),
]
style = """text { font: 12px system-ui, sans-serif; fill: #555; } .title { font-weight: 600; fill: #222; } .end { text-anchor: end; }
.middle { text-anchor: middle; } .line { stroke: #ddd; } polyline { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) { text { fill: #aaa; } .title { fill: #eee; } .line { stroke: #333; } }"""
svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDE} {HIGH}" role="img">\n<style>{style}</style>\n'
(HERE / "benchmarks.svg").write_text(svg + "\n".join(charts) + "\n</svg>\n")
