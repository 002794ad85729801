"""The tables and values that docs/results.md holds, each a function of what the project has measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from benchmarks.table import markdown
from minigpts import artifacts
from minigpts.reporting.captions import at

REFITS = {"least_squares": " + refit", "bias": " + bias", "none": ""}
PARENTS = ("parent", "tuned_parent")
APART = ("shift", "mean_difference", "max_difference", "max_difference_in_f32")  # of llama.cpp's ln p from transformers'


@dataclass(frozen=True)
class Sources:
    """What a project has measured: the folder that holds ``benchmarks/results`` and ``metrics``."""

    root: Path

    def rows(self, name: str) -> list[dict[str, str]]:
        """The lines of a CSV of benchmarks/results."""
        return artifacts.read_csv(self.root / "benchmarks/results" / name)

    def metrics(self, name: str) -> dict[str, Any]:
        """A file of metrics; the tuned parent's as last measured, where the committed run didn't tune it."""
        found = artifacts.read_json(self.root / "metrics" / f"{name}.json")
        return found or artifacts.read_json(self.root / "benchmarks/results" / f"{name}.json")

    @cached_property
    def file(self) -> Mapping[str, Any]:
        """Metrics of the default run's exported file; empty where none was exported."""
        path = self.root / "metrics/exported.json"
        return artifacts.read_json(path) if path.exists() else {}

    @cached_property
    def child(self) -> Mapping[str, Any]:
        """The default run's child: the exported file where there is one, else the tuned checkpoint."""
        return self.file or self.metrics("finetuned")

    @cached_property
    def bake_off(self) -> dict[tuple[str, float, int], list[float]]:
        """Perplexities of all seeds by (criterion and refit, ratio, tuned tokens)."""
        found: dict[tuple[str, float, int], list[float]] = {}
        for row in self.rows("criteria.csv"):
            place = (row["criterion"] + REFITS[row["refit"]], float(row["ratio"]), int(row["tuned_tokens"]))
            found.setdefault(place, []).append(float(row["perplexity"]))
        return found


def number(value: float) -> str:
    """Three significant digits, or whole numbers with thousands separators."""
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"


def points(difference: float) -> str:
    """A difference of shares in points, signed."""
    return f"{100 * difference:+.1f}".replace("-", "− ").replace("+", "+ ")


def percent(share: str | float) -> str:
    """A share as a percentage, or nothing where there is none."""
    return "" if share == "" else f"{100 * float(share):.1f} %"


def default_run(sources: Sources) -> str:
    """The default run's models beside each other, the child last."""
    names = {"parent": "base", "tuned parent": "tuned_parent", "pruned": "pruned", "tuned": "finetuned"}
    columns = {name: sources.metrics(stem) for name, stem in names.items()} | ({"file": sources.file} if sources.file else {})
    models = [*columns.values()]

    def line(what: str, key: str, shown: Callable[[float], str], against: Callable[[float, float], str]) -> list[str]:
        values = [float(at(model, key)) for model in models]
        return [what, *map(shown, values[:-1]), f"**{shown(values[-1])}**", against(values[-1], values[0])]

    def smaller(child: float, parent: float) -> str:
        return f"− {100 * (1 - child / parent):.1f} %"

    def times(child: float, parent: float) -> str:
        return f"× {child / parent:.3f}"

    def better(child: float, parent: float) -> str:
        return f"{points(child - parent)} points"

    asked, error = models[0]["num_questions"], 100 * max(model["acc_stderr"] for model in models)
    rows = [
        line("parameters", "num_parameters", lambda value: f"{value / 1e6:.1f} M", smaller),
        line("weights file", "checkpoint_bytes", lambda value: f"{value / 1e6:.1f} MB", smaller),
        line("bits per byte, test text", "bits_per_byte", lambda value: f"{value:.3f}", times),
        line("perplexity, per parent token", "perplexity", lambda value: f"{value:.1f}", times),
        line(f"accuracy ({asked} questions, ± {error:.1f})", "acc", percent, better),
        line(f"accuracy, length-normalized (± {error:.1f})", "acc_norm", percent, better),
    ]
    if all("speech" in model for model in models):
        rows += [
            line("replies to the domain's prompts that are empty", "speech.domain.empty_rate", percent, better),
            line("… that loop", "speech.domain.loop_rate", percent, better),
            line("checkable instructions kept", "speech.instructions", percent, better),
        ]
    return markdown(["", *columns, f"{[*columns][-1]} against parent"], rows)


def domains(sources: Sources) -> str:
    """Each domain's child on its own test text."""
    rows = []
    for row in sorted(sources.rows("domains.csv"), key=over_parent):
        bits = f"{float(row['bits_per_byte_parent']):.3f} → **{float(row['bits_per_byte']):.3f}**"
        accuracy = f"{percent(row['acc_parent'])} → {percent(row['acc'])} (± {100 * float(row['acc_stderr']):.1f})"
        tokens = f"{int(row['tuned_tokens']):,}"
        caught_up = f"{int(row['recovery_tokens']):,}" if row["recovery_tokens"] else "not reached"
        rows.append([row["domain"], percent(row["size_reduction"]), tokens, bits, f"× {over_parent(row):.3f}", caught_up, accuracy])
    header = ["", "smaller by", "tokens tuned on", "bits per byte, parent → child", "×", "tokens to the parent's, validation text"]
    return markdown([*header, "accuracy, parent → child"], rows)


def over_parent(row: Mapping[str, str]) -> float:
    """Bits per byte over the parent's."""
    return float(row["bits_per_byte"]) / float(row["bits_per_byte_parent"])


def crossed(rows: Sequence[Mapping[str, str]], down: str, across: str, cell: Callable[[Mapping[str, str]], str]) -> str:
    """A matrix of one cell a row of the CSV, with its own domain in bold."""
    cells = {(row[down], row[across]): f"**{cell(row)}**" if row[down] == row[across] else cell(row) for row in rows}
    names = sorted({row[across] for row in rows})
    return markdown(
        ["", *names], [[name, *(cells[name, other] for other in names)] for name in sorted({row[down] for row in rows})]
    )


def calibration(refit: str) -> Callable[[Sources], str]:
    """Perplexity of a domain's test text (down) when neurons were chosen on another's (across)."""

    def fill(sources: Sources) -> str:
        rows = [row for row in sources.rows("calibration_domains.csv") if row["refit"] == refit]
        return crossed(rows, "domain", "calibrated_on", lambda row: number(float(row["perplexity"])))

    return fill


def cross_domain(sources: Sources) -> str:
    """A domain's child (down) on another's test text (across): bits per byte over the parent's."""
    return crossed(sources.rows("cross_domain.csv"), "domain", "evaluated_on", lambda row: f"{over_parent(row):.2f}")


def cross_domain_accuracy(sources: Sources) -> str:
    """A domain's child (down) on another's questions (across): accuracy, child's minus the parent's in points."""
    rows = sources.rows("cross_domain.csv")
    return crossed(rows, "domain", "evaluated_on", lambda row: points(float(row["acc"]) - float(row["acc_parent"])))


def frontier(sources: Sources) -> str:
    """Children of several sizes beside both parents."""
    rows = []
    for row in sources.rows("frontier.csv"):
        perplexity = float(row["perplexity"])
        over = [f"{perplexity / float(row[f'perplexity_{other}']):.2f}" if row[f"perplexity_{other}"] else "" for other in PARENTS]
        quality = [f"{float(row['bits_per_byte']):.3f}", number(perplexity), *over, percent(row["acc"])]
        rows.append([row["data"], percent(row["size_reduction"]), f"{int(row['tuned_tokens']):,}", *quality])
    header = ["data", "smaller by", "tokens", "bits per byte", "perplexity", "× the parent's", "× the tuned parent's", "accuracy"]
    return markdown(header, rows)


def bits(sources: Sources) -> str:
    """Files of every size beside the tuned parent, the smallest last of each data."""
    rows = []
    for row in sorted(sources.rows("bits.csv"), key=lambda row: (row["data"], -float(row["megabytes"]))):
        quality = [f"{float(row['bits_per_byte']):.3f}", number(float(row["perplexity"]))]
        over = f"{float(row['perplexity_over_tuned_parent']):.2f}"
        shares = [percent(row[name]) for name in ("acc", "acc_norm", "loop_rate")]
        rows.append(
            [
                row["data"],
                row["name"],
                f"{float(row['megabytes']):.1f}",
                *quality,
                over,
                *shares,
                number(float(row["tokens_per_second"])),
            ]
        )
    header = [
        "data",
        "file",
        "MB",
        "bits per byte",
        "perplexity",
        "× the tuned parent's",
        "accuracy",
        "by length",
        "loops",
        "tokens/s",
    ]
    return markdown(header, rows)


def rounding(sources: Sources) -> str:
    """What each format costs in bits per byte by llama.cpp's rule and by ours."""
    rows = []
    for row in sources.rows("rounding.csv"):
        damages = [f"{float(row[name]):.4f}" if row[name] else "" for name in ("damage_llamacpp", "damage_ours")]
        rows.append([row["data"], row["format"], *damages, f"{float(row['ratio']):.2f} ×" if row["ratio"] else ""])
    return markdown(["data", "format", "llama.cpp's rule", "ours", "ours over llama.cpp's"], rows)


def llamacpp(sources: Sources) -> str:
    """Files in llama.cpp beside the same weights in transformers, and what they cost to run."""
    rows = []
    for row in sources.rows("llamacpp.csv"):
        same = [
            f"{row[f'{what}_alike']} of {row[of]}"
            for what, of in (("lines_tokenized", "lines"), ("continuations", "continuations"))
        ]
        apart = [f"{float(row[f'log_probability_{which}']):.2g}" for which in APART]
        speeds = [number(float(row[f"{what}_tokens_per_second"])) for what in ("prefill", "decode")]
        rows.append([row["name"], f"{float(row['megabytes']):.1f}", *same, *apart, f"{float(row['load_seconds']):.2f}", *speeds])
    apart = ["ln p: shift", "mean difference", "highest", "highest, values in F32"]
    speeds = ["load, s", "prefill, tokens/s", "decode, tokens/s"]
    return markdown(["file", "MB", "lines tokenized alike", "greedy texts alike", *apart, *speeds], rows)


def criteria(sources: Sources) -> str:
    """The bake-off: mean perplexity over the seeds, with their number where it isn't one; lowest at the deepest cut first."""
    found = sources.bake_off
    ratios = sorted({ratio for _, ratio, _ in found} - {0.0})
    tuned = max(tokens for *_, tokens in found)
    places = [(ratio, tokens) for ratio in ratios for tokens in (0, tuned)]

    def mean(entry: str, ratio: float, tokens: int) -> str:
        values = found.get((entry, ratio, tokens), [])
        return f"{number(fmean(values))}{f' ({len(values)})' if len(values) > 1 else ''}" if values else ""

    entries = sorted({entry for entry, *_ in found} - {"dense"}, key=lambda entry: fmean(found[entry, ratios[-1], 0]))
    dense = ["parent", *(mean("dense", 0.0, tokens) for _, tokens in places)]
    header = ["", *(f"{100 * ratio:.0f} %, {'tuned' if tokens else 'untuned'}" for ratio, tokens in places)]
    return markdown(header, [dense, *([entry, *(mean(entry, *place) for place in places)] for entry in entries)])


def experts(sources: Sources) -> str:
    """A mixture's experts removed by each criterion: perplexity over the uncut model's, geometric mean of domains and seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in sources.rows("experts.csv"):
        own = row["calibration"] == row["domain"]
        name = row["criterion"] if own else f"{row['criterion']}, another domain's text"
        found.setdefault(name, {}).setdefault(row["removed"], []).append(float(row["ratio"]))
    means = {name: {share: geometric_mean(ratios) for share, ratios in shares.items()} for name, shares in found.items()}
    shares = sorted(next(iter(means.values())), key=float)
    entries = sorted(means, key=lambda name: means[name][shares[-1]])
    rows = [[name, *(f"{means[name][share]:.3f}" for share in shares)] for name in entries]
    return markdown(["removed from every layer", *(f"{100 * float(share):.0f} %" for share in shares)], rows)


def real_size(sources: Sources) -> str:
    """Memory and time of the stages at the size of the paper's models."""
    columns = ("peak_rss_mb", "beyond_imports_mb", "anonymous_beyond_imports_mb")
    rows = []
    for row in sources.rows("real_size.csv"):
        removed = f"{int(row['removed_parameters']):,} of {int(row['planned_parameters']):,}" if row["removed_parameters"] else ""
        megabytes = [f"{int(row[column]):,}" for column in columns]
        rows.append([row["model"], row["stage"], *megabytes, row["time_over_cp"], row["time_over_cp_without_imports"], removed])
    header = ["model", "stage", "peak RSS, MB", "beyond imports, MB", "anonymous, MB", "time over cp", "… without imports"]
    return markdown([*header, "parameters removed of those planned"], rows)


def layer_by_layer(sources: Sources) -> str:
    """Memory and time of the stages at 7B shapes."""
    names = ("beyond_imports_mb", "anonymous_beyond_imports_mb", "peak_rss_mb", "cpu_seconds")
    rows = [[row["layers"], row["stage"], *(f"{int(row[name]):,}" for name in names)] for row in sources.rows("layer_by_layer.csv")]
    return markdown(["layers", "stage", "beyond imports, MB", "anonymous, MB", "peak RSS, MB", "CPU time, s"], rows)


def ratios(sources: Sources) -> str:
    """The rows of `make bench`, a table for each machine."""
    blocks = []
    for machine, rows in groupby(sources.rows("ratios.csv"), key=lambda row: row["machine"]):
        found = [[row["what"], row["measured"], row["target"]] for row in rows]
        blocks.append(f"Machine: {machine}\n\n{markdown(['what', 'measured', 'target'], found)}")
    return "\n\n".join(blocks)


def leader(criterion: str) -> Callable[[Sources], str]:
    """Lowest to highest perplexity of the seeds at each ratio, untuned, of a criterion with the refit."""

    def fill(sources: Sources) -> str:
        found = sources.bake_off
        each = [found[place] for place in sorted(found) if place[0] == f"{criterion} + refit" and not place[2]]
        return ", ".join(f"{number(min(values))} to {number(max(values))}" for values in each)

    return fill


def over_tuned_parent(sources: Sources) -> str:
    """The default child's perplexity over the tuned parent's."""
    return f"{sources.child['perplexity'] / sources.metrics('tuned_parent')['perplexity']:.2f}"


def accuracy_below_tuned_parent(sources: Sources) -> str:
    """The default child's accuracy minus the tuned parent's, in points, with its standard error."""
    child, parent = sources.child, sources.metrics("tuned_parent")
    return f"{points(child['acc'] - parent['acc'])} points (± {100 * parent['acc_stderr']:.1f})"


def ratio(beginning: str) -> Callable[[Sources], str]:
    """The figure of the row of `make bench` that begins so."""
    return lambda sources: next(row["measured"] for row in sources.rows("ratios.csv") if row["what"].startswith(beginning))
