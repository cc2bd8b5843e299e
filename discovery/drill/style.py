"""The style sheet of the page. Pure text; both colour schemes are variables at its head."""

from __future__ import annotations

from typing import Final

STYLE: Final = """\
:root { --paper: #ffffff; --ink: #1d2430; --soft: #5b6675; --line: #d9dfe7; --wash: #f4f6f9;
  --good: #1b7f5c; --bad: #c02b2b; --warn: #c98a10; --blue: #3569b8; --pale: #e4e9f0; --on: #ffffff;
  --lead0: #56688a; --lead1: #7d6a94; --lead2: #4b7f88; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e4e9f0; --soft: #9aa6b5; --line: #323b48;
  --wash: #1c222c; --good: #4cc096; --bad: #ff7b72; --warn: #e6b450; --blue: #6fa3ee; --pale: #2a323e;
  --on: #10141a; --lead0: #93a6cc; --lead1: #b7a1d1; --lead2: #83bac4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 4px 0 16px; }
h2 { font-size: 21px; margin: 0 0 6px; }
h2 small { font-size: 14px; font-weight: 600; margin-left: 8px; }
.kicker { margin: 0; color: var(--soft); font-size: 14px; letter-spacing: .06em; text-transform: uppercase; }
.passed { color: var(--good); } .failed { color: var(--bad); } .skipped { color: var(--soft); }
.note { border-left: 3px solid currentColor; padding-left: 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
.tile { background: var(--wash); border-radius: 8px; padding: 14px 16px; border-top: 3px solid currentColor; }
.tile b { display: block; font-size: 26px; line-height: 1.2; }
.tile span, .tile small { display: block; color: var(--ink); line-height: 1.35; }
.tile small { color: var(--soft); font-size: 13px; margin-top: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.passed, td.failed { font-weight: 600; }
a { color: inherit; }
section { margin-top: 44px; padding-top: 28px; border-top: 1px solid var(--line); }
figure { margin: 18px 0; }
figure .wide svg { display: block; min-width: 720px; width: 100%; height: auto; }
figcaption { font-size: 14px; color: var(--soft); }
.marks { columns: 280px 3; margin: 8px 0 12px; padding-left: 26px; }
.marks li { break-inside: avoid; } .marks .act { color: var(--ink); } .marks b { font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 0; padding: 0; }
.legend svg { width: 13px; height: 13px; margin-right: 6px; vertical-align: -1px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .lane { text-anchor: end; font-weight: 600; } svg .small { text-anchor: end; fill: var(--soft); font-size: 11px; }
svg .tick { text-anchor: middle; fill: var(--soft); font-size: 11px; }
svg .on { text-anchor: middle; fill: var(--on); font-size: 11.5px; font-weight: 600; }
svg .grid { stroke: var(--line); } svg .base { stroke: var(--soft); }
svg .leader0 { fill: var(--lead0); } svg .leader1 { fill: var(--lead1); } svg .leader2 { fill: var(--lead2); }
svg .nobody { fill: var(--bad); }
svg .kept { fill: var(--blue); } svg .failed { fill: var(--warn); }
svg .right { fill: var(--good); } svg .refused { fill: var(--warn); } svg .wrong { fill: var(--bad); }
svg .silent { fill: var(--pale); stroke: var(--soft); stroke-dasharray: 2 2; }
svg .nothing { fill: none; stroke: var(--line); }
svg .down { fill: var(--soft); fill-opacity: .78; stroke: var(--ink); }
svg .act line { stroke: var(--ink); stroke-width: 1.5; } svg .seen line { stroke: var(--soft); stroke-dasharray: 3 3; }
svg .act circle { fill: var(--ink); } svg .seen circle { fill: var(--paper); stroke: var(--soft); }
svg .act text { fill: var(--paper); text-anchor: middle; font-size: 10.5px; font-weight: 600; }
svg .seen text { fill: var(--ink); text-anchor: middle; font-size: 10.5px; }
footer { margin-top: 52px; padding-top: 24px; border-top: 1px solid var(--line); }
footer { color: var(--soft); font-size: 14.5px; }
footer h2 { font-size: 17px; color: var(--ink); }
dt { color: var(--ink); font-weight: 600; margin-top: 8px; } dd { margin: 0; }
@media print { section { break-inside: avoid; } main { max-width: none; padding: 0; } }
"""
