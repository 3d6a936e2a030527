"""The style sheet of the report: light and dark, for the screen, a telephone and paper."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --card: #f6f6f3; --ink: #1c1d20; --muted: #6d7078; --rule: #e4e4df;
  --train: #2f5fc4; --valid: #c2540a; --mark: #fbe7c9;
  --sans: ui-sans-serif, system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", Cambria, Georgia, serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #17181b; --card: #1f2125; --ink: #e6e6e3; --muted: #9a9da6; --rule: #303339;
    --train: #84a9ff; --valid: #f0a35e; --mark: #4d3c1c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 68rem; padding: 3.5rem 2rem 5rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.55 var(--sans); font-variant-numeric: tabular-nums;
  -webkit-text-size-adjust: 100%;
}
h1 { font: 600 2.3rem/1.15 var(--serif); margin: 0 0 .35rem; letter-spacing: -.01em; }
h2 { font: 600 1.3rem/1.2 var(--serif); margin: 3.4rem 0 1.1rem; }
h3 {
  font-size: .74rem; font-weight: 600; letter-spacing: .07em; text-transform: uppercase;
  color: var(--muted); margin: 1.8rem 0 .7rem;
}
.facts { color: var(--muted); margin: 0; }
.facts span { overflow-wrap: anywhere; }
.facts + table { margin-top: .6rem; }
section .facts { font-size: .85rem; margin-top: -.5rem; }
.facts span + span::before { content: "·"; margin: 0 .5em; }
.key { color: var(--muted); font-size: .85rem; margin: -.5rem 0 0; }
.key i { display: inline-block; width: 1.3em; border-top: 2px solid; margin: 0 .4em .22em 0; }
.key span { margin-right: 1.4em; }
.headline {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 0 1.8rem;
  margin: 2.2rem 0 0; border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule);
}
.headline div { padding: 1.1rem 0 1.2rem; }
.headline dt { color: var(--muted); font-size: .85rem; }
.headline dd { margin: 0; }
.headline .number { display: block; font: 600 2.1rem/1.25 var(--serif); }
.headline .aside { display: block; color: var(--muted); font-size: .82rem; line-height: 1.4; }
nav { margin-top: 1.1rem; font-size: .85rem; }
nav a { color: var(--muted); margin-right: 1.3em; text-decoration: none; }
nav a:hover { color: var(--ink); text-decoration: underline; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .42rem .8rem .42rem 0; text-align: left; vertical-align: baseline; }
tr + tr > * { border-top: 1px solid var(--rule); }
th { font-weight: 500; white-space: nowrap; }
td.number { text-align: right; font-weight: 600; padding-right: 1.6rem; white-space: nowrap; }
td.note { color: var(--muted); width: 60%; }
.arrow { color: var(--muted); font-weight: 400; }
.plots {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(18.5rem, 1fr)); gap: 1.6rem 2rem;
}
figure { margin: 0; }
figcaption { display: flex; justify-content: space-between; gap: 1em; font-size: .88rem; }
figcaption b { font-weight: 600; }
figcaption .valid { color: var(--valid); font-weight: 400; margin-left: .7em; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: var(--sans) !important; }
.sentences { margin: 0; padding: 0; list-style: none; columns: 2; column-gap: 2.5rem; }
.sentences li {
  font-family: var(--serif); font-size: 1.02rem; line-height: 1.4; padding: .34rem 0;
  border-bottom: 1px solid var(--rule); break-inside: avoid;
}
.paths {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.4rem 2.5rem;
}
.paths ol { margin: 0; padding: 0 0 0 1rem; list-style: none; border-left: 2px solid var(--rule); }
.paths li { font-family: var(--serif); font-size: 1.02rem; line-height: 1.4; padding: .2rem 0; }
.paths li:not(:first-child):not(:last-child) { color: var(--muted); }
mark {
  background: var(--mark); color: inherit; border-radius: 3px; padding: 0 .15em; margin: 0 -.15em;
}
.pairs td { font-family: var(--serif); font-size: 1.02rem; line-height: 1.4; width: 50%; }
.pairs td + td { padding-left: .8rem; }
.pairs th { font-size: .8rem; color: var(--muted); }
.pairs th + th { padding-left: .8rem; }
.figures td, .figures th { text-align: right; padding: .42rem 0 .42rem 1rem; }
.figures th:first-child { text-align: left; padding-left: 0; }
.figures tr:first-child th { font-size: .8rem; color: var(--muted); }
.beside { display: grid; grid-template-columns: 18.5rem 1fr; gap: 3rem; margin-top: 2rem; }
.beside .settings { columns: 1; }
.settings { columns: 2; column-gap: 3rem; font-size: .87rem; }
.settings section { break-inside: avoid; margin-bottom: 1.6rem; }
.settings h3 { margin-top: 0; }
.settings th { color: var(--muted); font-weight: 400; padding: .26rem 1.2rem .26rem 0; }
.settings td {
  font-family: var(--mono); font-size: .8rem; text-align: right; padding: .26rem 0;
  overflow-wrap: anywhere;
}
details { margin-top: 1rem; }
summary { color: var(--muted); cursor: pointer; font-size: .88rem; margin-bottom: .6rem; }
footer {
  margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--muted);
  font-size: .82rem;
}
@media (max-width: 44rem) {
  body { padding: 2rem 1.1rem 3rem; }
  .sentences, .settings { columns: 1; }
  .beside { grid-template-columns: 1fr; gap: 1rem; }
  .figures { display: block; overflow-x: auto; }
  td.note { display: none; }
}
@media print {
  body { max-width: none; padding: 0; }
  nav { display: none; }
  figure, .headline { break-inside: avoid; }
}
"""
