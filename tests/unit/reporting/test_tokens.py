from pathlib import Path

from minigpts import artifacts
from minigpts.reporting.tokens import dropped_tokens


def test_examples_are_whole_words_in_the_order_of_their_ids(tmp_path: Path) -> None:
    table = {
        "token_id": [4, 0, 1, 2, 3, 5],
        "token": ["ĠLater", "Ġstadium", "ized", "Ġheart", "Ġ!!!!", None],
        "count": [0, 0, 0, 9, 0, 0],
        "new_id": [-1, -1, -1, 0, -1, -1],
        "reason": [None, None, None, "counted", None, None],
    }
    artifacts.write_table(tmp_path / "pruned_tokens.parquet", table)
    dropped = dropped_tokens(tmp_path)
    assert dropped is not None
    assert dropped.examples == ["␣stadium", "␣Later"]
    assert dropped.reasons == {"dropped": 5, "kept: occurs in the training text often enough": 1}
    shorter = dropped_tokens(tmp_path, examples=1)
    assert shorter is not None
    assert shorter.examples == ["␣stadium"]


def test_a_checkpoint_without_the_index_map(tmp_path: Path) -> None:
    assert dropped_tokens(tmp_path) is None
