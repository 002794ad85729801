"""docs/results.md says what the CSVs and metrics say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import results_page
from benchmarks.results_tables import Sources
from minigpts import artifacts
from minigpts.errors import UserError

ROOT = Path(__file__).parents[3]
PERPLEXITIES = [
    ("dense", "none", 0, 0, 0, 11.5),
    ("wanda", "least_squares", 0.2, 0, 0, 13.0),
    ("wanda", "least_squares", 0.2, 1, 0, 14.0),
    ("wanda", "least_squares", 0.2, 0, 512, 7.25),
    ("random", "none", 0.2, 0, 0, 708762),
]


@pytest.mark.parametrize("page", results_page.PAGES, ids=str)
def test_the_committed_page_is_what_the_generator_makes(page):
    """A run of one's own changes metrics/ and not the page: python -m benchmarks.results_page fills it before a commit."""
    command = ["git", "status", "--porcelain", "metrics", "benchmarks/results"]
    if subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout:
        pytest.skip("metrics or benchmarks/results differ from what is committed")
    text = (ROOT / page).read_text(encoding="utf-8")
    assert results_page.filled(text, Sources(ROOT)) == text


def test_the_bake_off_becomes_means_with_their_seeds_best_first(tmp_path):
    columns = ("criterion", "refit", "ratio", "seed", "tuned_tokens", "perplexity")
    rows = [dict(zip(columns, row, strict=True)) for row in PERPLEXITIES]
    artifacts.write_csv(tmp_path / "benchmarks/results/criteria.csv", rows)
    filled = results_page.filled("a\n<!-- table: criteria.csv -->old<!-- end -->\nb", Sources(tmp_path))
    assert filled == (
        "a\n<!-- table: criteria.csv -->\n\n"
        "|  | 20 %, untuned | 20 %, tuned |\n| --- | --- | --- |\n"
        "| parent | 11.5 |  |\n| wanda + refit | 13.5 (2) | 7.25 |\n| random | 708,762 |  |\n\n<!-- end -->\nb"
    )


def test_files_become_a_table_smallest_last_and_an_absent_figure_stays_empty(tmp_path):
    figures = {"bits_per_byte": 0.75512, "perplexity": 10.5378, "perplexity_over_tuned_parent": 1, "acc": 0.616, "acc_norm": 0.638}
    parent = {
        "data": "law",
        "name": "tuned parent, BF16",
        "megabytes": 270.9,
        **figures,
        "loop_rate": 0.1,
        "tokens_per_second": 31.04,
    }
    artifacts.write_csv(
        tmp_path / "benchmarks/results/bits.csv",
        [{**parent, "name": "ours, small", "megabytes": 64.98, "acc": "", "acc_norm": ""}, parent],
    )
    rounded = [{"data": "law", "format": "Q4_0", "bits_per_byte": 1, "damage_llamacpp": 0.05, "damage_ours": "", "ratio": ""}]
    artifacts.write_csv(tmp_path / "benchmarks/results/rounding.csv", rounded)
    filled = results_page.filled("<!-- table: bits.csv --><!-- end --><!-- table: rounding.csv --><!-- end -->", Sources(tmp_path))
    assert (
        "| law | tuned parent, BF16 | 270.9 | 0.755 | 10.5 | 1.00 | 61.6 % | 63.8 % | 10.0 % | 31.0 |\n| law | ours, small |"
        in filled
    )
    assert "| law | ours, small | 65.0 | 0.755 | 10.5 | 1.00 |  |  | 10.0 % | 31.0 |" in filled
    assert "| law | Q4_0 | 0.0500 |  |  |" in filled


@pytest.mark.parametrize("last", ["file", "tuned"])
def test_the_last_column_of_the_default_run_is_the_file_where_one_was_exported(tmp_path, last):
    for size, name in enumerate(["exported", "finetuned", "pruned", "tuned_parent", "base"], start=1):
        values = dict.fromkeys(("bits_per_byte", "perplexity", "acc", "acc_norm", "acc_stderr", "num_parameters"), 0.5)
        values |= {"num_questions": 9, "checkpoint_bytes": size * 1e6}
        values |= (
            {"speech": {"domain": {"empty_rate": 0.0, "loop_rate": size / 10}, "instructions": 0.25}} if last == "file" else {}
        )
        artifacts.write_json(tmp_path / f"metrics/{name}.json", {} if (name, last) == ("exported", "tuned") else values)
    table = results_page.filled("<!-- table: default run --><!-- end -->", Sources(tmp_path))
    expected = {
        "file": (
            "| parent | tuned parent | pruned | tuned | file | file against parent |",
            "| **1.0 MB** | − 80.0 % |",
            "… that loop | 50.0 % |",
        ),
        "tuned": ("| parent | tuned parent | pruned | tuned | tuned against parent |", "| **2.0 MB** | − 60.0 % |"),
    }
    assert [words for words in expected[last] if words not in table] == []


def test_a_value_stands_in_its_line_and_filling_twice_changes_nothing(tmp_path):
    for name, perplexity in (("finetuned", 14.0), ("exported", 15.0), ("tuned_parent", 10.0)):  # the file is the child
        artifacts.write_json(tmp_path / f"metrics/{name}.json", {"perplexity": perplexity})
    page = "× <!-- value: perplexity over the tuned parent's --><!-- end --> of it"
    once = results_page.filled(page, Sources(tmp_path))
    assert once == "× <!-- value: perplexity over the tuned parent's -->1.50<!-- end --> of it"
    assert results_page.filled(once, Sources(tmp_path)) == once


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- table: nothing.csv --><!-- end -->", "no block is called 'nothing.csv'"),
        ("<!-- table: criteria.csv --> <!-- table: domains.csv --><!-- end -->", "the block 'criteria.csv' has no <!-- end -->"),
        ("<!-- value: fine-tuning -->", "the block 'fine-tuning' has no <!-- end -->"),
    ],
)
def test_a_block_that_cannot_be_filled_is_named(page, message, tmp_path):
    with pytest.raises(UserError, match=message):
        results_page.filled(page, Sources(tmp_path))
