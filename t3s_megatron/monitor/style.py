# SPDX-License-Identifier: Apache-2.0
"""The style sheet of the HTML report: light or dark as the reader's system is, on any width, on
paper too. Rise and fall are orange and blue, which every kind of eye tells apart."""

STYLE = """
:root { color-scheme: light dark;
  --page: #fdfdfb; --text: #1d2126; --soft: #59616b; --line: #d5d8dc; --panel: #f2f3f1;
  --band0: #e8eef6; --band1: #eaf3e8; --warn: #8a4b00; --warnback: #fff3dc;
  --c0: #1f6fb4; --c1: #b8500b; --c2: #2b7f3f; --c3: #8a3f9e; --c4: #8c6d00; --c5: #b3294e;
  --r1: #fdecd8; --r2: #fbd3a4; --r3: #f6b06a; --r4: #ee8e35;
  --f1: #e4eefa; --f2: #c2daf5; --f3: #97bfee; --f4: #6ba3e6; }
@media (prefers-color-scheme: dark) { :root {
  --page: #15181c; --text: #e6e8ea; --soft: #a3abb5; --line: #3a4048; --panel: #1f242a;
  --band0: #1d2734; --band1: #1e2b21; --warn: #ffc46b; --warnback: #352a14;
  --c0: #6cb2f2; --c1: #f39a55; --c2: #72c985; --c3: #cf92e3; --c4: #dcbf55; --c5: #f2809f;
  --r1: #38291a; --r2: #553511; --r3: #7a480c; --r4: #925305;
  --f1: #1c2a3b; --f2: #1f3c5e; --f3: #205084; --f4: #2164a8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.35rem; margin: 3rem 0 .5rem;
  padding-top: .8rem; border-top: 2px solid var(--line); overflow-wrap: anywhere; }
h3 { font-size: 1.08rem; margin: 2rem 0 .4rem; }
p { margin: .4rem 0 .8rem; max-width: 60rem; overflow-wrap: anywhere; }
a { color: var(--c0); } .soft, figcaption { color: var(--soft); }
.warning { background: var(--warnback); color: var(--warn); border-left: 4px solid var(--warn);
  padding: .5rem .8rem; }
.decided { background: var(--panel); border-left: 4px solid var(--c0); padding: .5rem .8rem; }
figure { margin: 1rem 0; } figure svg { width: 100%; max-width: 56rem; height: auto; }
figcaption { font-size: .88rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0;
  margin: 0; }
.legend svg { width: 24px; vertical-align: middle; }
svg text { fill: var(--soft); font-size: 12px; font-family: inherit; }
svg text.strong { fill: var(--text); font-weight: 600; }
.grid { stroke: var(--line); stroke-width: .6; } .axis { stroke: var(--soft); }
.mark { stroke: var(--text); stroke-dasharray: 2 3; }
.b0 { fill: var(--band0); } .b1 { fill: var(--band1); }
.line { fill: none; stroke-width: 1.8; } .error { stroke-width: 1.2; }
.dashed { stroke-dasharray: 6 4; }
.line.c0, .error.c0 { stroke: var(--c0); } .dot.c0, .bar.c0, .cloud.c0 { fill: var(--c0); }
.line.c1, .error.c1 { stroke: var(--c1); } .dot.c1, .bar.c1, .cloud.c1 { fill: var(--c1); }
.line.c2, .error.c2 { stroke: var(--c2); } .dot.c2, .bar.c2, .cloud.c2 { fill: var(--c2); }
.line.c3, .error.c3 { stroke: var(--c3); } .dot.c3, .bar.c3, .cloud.c3 { fill: var(--c3); }
.line.c4, .error.c4 { stroke: var(--c4); } .dot.c4, .bar.c4, .cloud.c4 { fill: var(--c4); }
.line.c5, .error.c5 { stroke: var(--c5); } .dot.c5, .bar.c5, .cloud.c5 { fill: var(--c5); }
.cloud { fill-opacity: .55; }
.small.rise { fill: var(--c1); } .small.fall { fill: var(--c0); }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .5rem 0 .2rem; }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 500; } thead th { color: var(--soft); }
td { overflow-wrap: break-word; } th code { display: inline-block; min-width: 5rem; }
code, pre, .trace, .log { font-family: ui-monospace, "DejaVu Sans Mono", Consolas, monospace;
  font-size: .86rem; }
code { white-space: pre-wrap; overflow-wrap: anywhere; }
mark { background: var(--r2); color: inherit; border-radius: 2px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: .6rem 1.2rem;
  margin: .6rem 0; }
dl > div { border-top: 1px solid var(--line); padding-top: .25rem; }
dt { color: var(--soft); font-size: .82rem; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 0 2rem; }
@media (max-width: 30rem) { .beside { grid-template-columns: 1fr; } }
details { margin: .4rem 0; border: 1px solid var(--line); border-radius: 4px; }
summary { padding: .35rem .7rem; cursor: pointer; overflow-wrap: anywhere; }
details > :not(summary) { margin-left: .7rem; margin-right: .7rem; }
:focus-visible { outline: 2px solid var(--c0); outline-offset: 1px; }
.log { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem .7rem .7rem; }
.trace { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; padding-bottom: .6rem;
  unicode-bidi: plaintext; content-visibility: auto; contain-intrinsic-size: auto 30rem; }
.key { white-space: normal; } .key span { padding: .1rem .35rem; }
.context, .cut { color: var(--soft); } .context { border-right: 3px solid var(--line); }
.trace i { font-style: normal; } .trace i, .trace s { border-radius: 2px; }
.trace s { text-decoration: line-through; text-decoration-thickness: 1.5px;
  text-decoration-color: var(--text); }
.trace i:hover, .trace s:hover { outline: 1px solid var(--text); }
.r1 { background: var(--r1); } .r2 { background: var(--r2); }
.r3 { background: var(--r3); } .r4 { background: var(--r4); }
.f1 { background: var(--f1); } .f2 { background: var(--f2); }
.f3 { background: var(--f3); } .f4 { background: var(--f4); }
@media print { .wide { overflow: visible; } main { max-width: none; } }
"""
