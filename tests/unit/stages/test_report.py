import hashlib
import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import yaml

from minigpts.errors import UserError
from minigpts.reporting.figures import Picture
from minigpts.reporting.style import Theme
from stages.report import main
from tests.unit.reporting.run_files import write_run

FIGURES = ("layer_widths", "neuron_magnitudes", "plan", "recovery", "token_frequencies", "where_the_bytes_went")
OUTPUTS = ("summary.json", "report.html", "figures")


def digests(root: Path) -> dict[str, str]:
    """md5 of everything the stage writes."""
    files = [path for name in OUTPUTS for path in [root / "metrics" / name, *(root / "metrics" / name).glob("*")] if path.is_file()]
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder in which the stage has run, and the arguments it ran with."""
    root = tmp_path_factory.mktemp("run")
    arguments = write_run(root)
    main(arguments)
    return root, arguments


def test_writes_what_dvc_yaml_names_and_nothing_else(finished: tuple[Path, list[str]]) -> None:
    root, _ = finished
    stage = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]["report"]
    outs = [out for key in ("outs", "metrics", "plots") for out in stage[key]]
    declared = {Path(path).name for out in outs for path in ([out] if isinstance(out, str) else out)} - {"figures"}
    written = digests(root)
    assert {name for name in written if not name.endswith(".png")} == declared
    assert {name for name in written if name.endswith(".png")} == {f"{name}.png" for name in FIGURES}
    assert not list((root / "metrics").rglob("*.partial"))


def test_the_summary(finished: tuple[Path, list[str]]) -> None:
    root, _ = finished
    summary = json.loads((root / "metrics/summary.json").read_text(encoding="utf-8"))
    assert (summary["size_reduction"], summary["bits_per_byte_ratio"], summary["acc_delta"]) == (0.43, 0.92, -0.06)
    assert summary["megabytes"] == 0.4
    assert list(summary) == sorted(summary)


def test_the_page_shows_prompts_and_tokens_as_text(finished: tuple[Path, list[str]]) -> None:
    root, _ = finished
    html = (root / "metrics/report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "␣Football" in html
    assert "&lt;img src=x onerror=" in html
    assert str(root) not in html


def test_cut_short_among_the_figures_it_leaves_none_or_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, drawn = write_run(tmp_path), list[Picture]()
    original = Picture.png

    def png(picture: Picture, *theme: Theme) -> bytes:  # the page's have a theme
        drawn.extend([picture] if not theme else [])
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return original(picture, *theme)

    monkeypatch.setattr(Picture, "png", png)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    assert not (tmp_path / "metrics/figures").exists()


def test_page_and_figures_show_what_decided(tmp_path: Path) -> None:
    """A plan has its picture and no threshold; without one it is the other way round."""
    pages, figures = {}, {}
    for planned in (True, False):
        root = tmp_path / str(planned)
        main(write_run(root, planned))
        pages[planned] = (root / "metrics/report.html").read_text(encoding="utf-8")
        figures[planned] = (root / "metrics/figures/neuron_magnitudes.png").read_bytes()
    thresholds = ("ε = 0.1", "counts as quiet", "above the cut", ">embedding_threshold<", ">threshold<")
    plans = ("Bytes freed by kind: MLP 75%", "not a threshold", "123 tokens that the budget", ">plan.num_counted_tokens<")
    assert [words for words in thresholds if words in pages[True] or words not in pages[False]] == []
    assert [words for words in plans if words in pages[False] or words not in pages[True]] == []
    assert figures[True] != figures[False]  # the dashed line


def test_last_column_and_line_are_of_the_file_where_one_was_exported(
    finished: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, arguments = finished
    main(arguments)
    file = root / "export/tiny-notes.gguf"
    talk = f"llama-cli -m {file} -cnv, or ollama create tiny-notes -f {root}/export/Modelfile"
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    assert capsys.readouterr().out.splitlines()[-1] == f"{file} ({size}): talk to it with make chat, or {talk}"
    main(write_run(tmp_path, exported=False))
    weights = tmp_path / "finetuned/model.safetensors"
    line = f"{tmp_path}/finetuned ({weights.stat().st_size / 1e6:.1f} MB): talk to it with make chat"
    assert capsys.readouterr().out.splitlines()[-1] == line
    for folder, name in ((root, "exported"), (tmp_path, "finetuned")):
        html = (folder / "metrics/report.html").read_text(encoding="utf-8")
        shown = re.findall(r'class="who child">.*?</p><blockquote>(.*?)</blockquote>', html, re.DOTALL)
        assert [unescape(text) for text in shown] == ["", f"{name} says 2 <i>", f"{name} says 0 <i>"]  # the worst first


def test_the_same_again_and_a_missing_input_leaves_it_whole(finished: tuple[Path, list[str]]) -> None:
    root, arguments = finished
    first = digests(root)
    main(arguments)
    assert digests(root) == first
    (root / "counts.parquet").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"counts\.parquet: no such file"):
        main(arguments)
    (root / "elsewhere").rename(root / "counts.parquet")
    assert digests(root) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": -1}, "threshold must be ≥ 0"),
        ({"embedding_threshold": 1.0}, "embedding_threshold must be ≥ 0 and < 1"),
    ],
)
def test_bad_params_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    values = {"threshold": 0.1, "embedding_threshold": 0.0, **change}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    flags = [
        part
        for name in ("base", "finetuned", "exported", "stats", "counts", "plan", "metrics", "speech", "summary", "figures", "page")
        for part in (f"--{name}", "x")
    ]
    with pytest.raises(UserError, match=message):
        main([*flags, "--params", str(path)])


def test_no_torch_is_imported(tmp_path: Path) -> None:
    code = f"import sys; from stages.report import main; main({write_run(tmp_path)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
