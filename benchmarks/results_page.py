"""Fill the marked blocks of docs/results.md and README.md from benchmarks/results/*.csv and metrics/*.json.

python -m benchmarks.results_page

A block is the text between ``<!-- table: NAME -->`` or ``<!-- value: NAME -->`` and ``<!-- end -->``. ``BLOCKS`` lists the names.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import results_tables as tables
from benchmarks.results_tables import Sources
from minigpts import artifacts
from minigpts.errors import UserError, exit_cleanly

PAGES = (Path("docs/results.md"), Path("README.md"))
START = r"<!-- (table|value): ([^<>]+) -->"
BLOCK = re.compile(rf"({START})((?!{START}).)*?(<!-- end -->)", re.DOTALL)

BLOCKS: dict[str, Callable[[Sources], str]] = {
    "default run": tables.default_run,
    "domains.csv": tables.domains,
    "calibration_domains.csv, with the refit": tables.calibration("least_squares"),
    "calibration_domains.csv, without the refit": tables.calibration("none"),
    "cross_domain.csv, bits per byte": tables.cross_domain,
    "cross_domain.csv, accuracy": tables.cross_domain_accuracy,
    "frontier.csv": tables.frontier,
    "bits.csv": tables.bits,
    "experts.csv": tables.experts,
    "rounding.csv": tables.rounding,
    "llamacpp.csv": tables.llamacpp,
    "criteria.csv": tables.criteria,
    "real_size.csv": tables.real_size,
    "layer_by_layer.csv": tables.layer_by_layer,
    "ratios.csv": tables.ratios,
    **{f"{criterion} + refit, untuned": tables.leader(criterion) for criterion in ("taylor", "wanda")},
    "perplexity over the tuned parent's": tables.over_tuned_parent,
    "accuracy below the tuned parent's": tables.accuracy_below_tuned_parent,
    "fine-tuning": tables.ratio("fine-tuning the child: tokens/s"),
}


def filled(page: str, sources: Sources) -> str:
    """The page with every marked block as the sources have it; raises UserError for a block that has no end or an unknown name."""

    def block(match: re.Match[str]) -> str:
        start, kind, name, end = match[1], match[2], match[3], match.groups()[-1]
        if name not in BLOCKS:
            raise UserError(f"no block is called {name!r}; known are: {', '.join(BLOCKS)}")
        content = BLOCKS[name](sources)
        return f"{start}{content}{end}" if kind == "value" else f"{start}\n\n{content}\n\n{end}"

    ended = {match.start() for match in BLOCK.finditer(page)}
    open_ended = next((match[2] for match in re.finditer(START, page) if match.start() not in ended), None)
    if open_ended is not None:
        raise UserError(f"the block {open_ended!r} has no <!-- end -->")
    return BLOCK.sub(block, page)


def main(argv: Sequence[str] | None = None) -> None:
    """Fill both pages in place."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    for path in PAGES:
        text = filled(path.read_text(encoding="utf-8"), Sources(Path()))
        with artifacts.replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    exit_cleanly(main)
