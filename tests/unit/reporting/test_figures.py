import io
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from PIL import Image

from minigpts.profiling.statistics import Statistics
from minigpts.reporting import figures, style
from minigpts.reporting.figures import Picture
from tests.unit.reporting.run_files import curve, plan, statistics


def table() -> list[dict[str, str]]:
    """``plan.csv`` as it is read."""
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in plan()]


def pictures() -> list[Picture]:
    arrays = {name: tensor.numpy() for name, tensor in statistics().items()}
    rows = curve()
    return [
        figures.neuron_magnitudes(Statistics(arrays).mean_abs_by_layer(), 0.1),
        figures.token_frequencies(np.array([5, 0, 100, 20, 0, 1]), 0.0),
        figures.layer_widths([48, 40, 0], [77, 77, 77]),
        figures.recovery(
            [row["tokens"] for row in rows],
            [row["validation_bits_per_byte"] for row in rows],
            1.1,
            32_000,
            [row["validation_acc_norm"] for row in rows],
            0.6,
        ),
        figures.where_the_bytes_went(
            {
                "parent": {"embeddings": 80, "MLP": 100},
                "tuned": {"embeddings": 30, "MLP": 50},
                "file": {"embeddings": 9, "MLP": 14},
            }
        ),
        figures.plan(table()),
    ]


@pytest.fixture(scope="module")
def light() -> list[bytes]:
    return [picture.png() for picture in pictures()]


def test_same_data_same_bytes_whatever_the_users_settings(light: list[bytes]) -> None:
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 10, "axes.facecolor": "red"}):
        assert [picture.png() for picture in pictures()] == light


def test_the_dark_theme_is_another_picture_of_the_same_size(light: list[bytes]) -> None:
    for picture, bright in zip(pictures(), light, strict=True):
        dark = picture.png(style.DARK)
        assert dark != bright
        assert Image.open(io.BytesIO(dark)).size == Image.open(io.BytesIO(bright)).size == style.pixels()


def test_files_hold_no_version_or_date(light: list[bytes]) -> None:
    assert [Image.open(io.BytesIO(png)).info for png in light] == [{}] * len(light)


def test_captions_count_right() -> None:
    magnitudes = [np.array([0.05, 0.1]), np.array([0.2, 0.3])]
    assert "50.0% of 4 neurons at ε = 0.1" in figures.neuron_magnitudes(magnitudes, 0.1).caption
    tokens = figures.token_frequencies(np.array([90, 0, 9, 1]), 0.01)
    assert "4 tokens 1 (25.0%) never occur" in tokens.caption
    assert "2 tokens above the cut, 1 others occur, 1 never occur" in tokens.alt
    assert "The parent has 77 MLP neurons a layer, the child 40 to 48." in figures.layer_widths([48, 40], [77, 77]).alt
    assert "the child 40 to 48 in the 2 that stay." in figures.layer_widths([48, 0, 40], [77, 77, 77]).alt
    assert "88 of 154 stay (57.1%)" in figures.layer_widths([48, 40], [77, 77]).caption
    models = {"parent": {"a": 40, "MLP": 90}, "tuned": {"a": 10, "MLP": 20}}
    assert figures.where_the_bytes_went(models).caption.endswith("of parent and tuned: 70% of what was saved came from the MLP.")
    file = figures.where_the_bytes_went({**models, "file": {"a": 8, "MLP": 2}})
    assert "of parent, tuned and file: 73% of what was saved came from the MLP" in file.caption
    assert "a 40, 10 and 8; MLP 90, 20 and 2." in file.alt
    assert "Bytes freed by kind: MLP 75%, layers 0%, bits of embedding 25%." in figures.plan(table()).caption
    assert "no budget is set" in figures.plan([row for row in table() if row["chosen"] == "False"]).caption
    assert "has not recovered" in figures.recovery([0, 10], [2.0, 1.5], 1.0, None).caption
    assert "gets 50% right before tuning and 40% after" in figures.recovery([0, 10], [2.0, 1.5], 1.0, None, [0.5, 0.4], 0.6).alt


@pytest.mark.parametrize(
    "make",
    [
        lambda: figures.neuron_magnitudes([np.array([0.0, 0.0, 1.0])], 0.0),  # dead ReLU neurons, no threshold
        lambda: figures.token_frequencies(np.array([3, 2, 1]), 0.0),  # nothing to drop
        lambda: figures.token_frequencies(np.array([10, 2, 0]), 0.5),  # a real cut
        lambda: figures.token_frequencies(np.array([10, 2, 0]), None, 1),  # a budget's plan
        lambda: figures.neuron_magnitudes([np.array([0.1, 1.0])], None),
        lambda: figures.layer_widths([77], [77]),  # nothing cut
        lambda: figures.recovery([0], [1.0], 1.0, 0),  # recovered before the first step
        lambda: figures.recovery([0, 10], [2.0, 1.0], 1.0, 10, [0.5, 0.5]),  # the parent was asked nothing
        lambda: figures.where_the_bytes_went({"parent": {"MLP": 10}, "tuned": {"MLP": 10}}),  # nothing saved
    ],
)
def test_the_edges_draw(make: Callable[[], Picture], recwarn: pytest.WarningsRecorder) -> None:
    picture = make()
    assert Image.open(io.BytesIO(picture.png())).size == style.pixels()
    assert not [str(warning.message) for warning in recwarn]
