"""The pipeline as DVC sees it, its stages standing in: each writes its outs at once, figures that follow from the params."""

from __future__ import annotations

from typing import Any

import yaml

from tests.e2e.project import ROOT, Project

SCRIPT = """
import json, sys
from pathlib import Path
import yaml
params = yaml.safe_load(Path("params.yaml").read_text())
size, rate = params["budget"]["target_size_reduction"] or 0.0, params["finetune"]["learning_rate"] or 0.0
if size > 0.9 and sys.argv[1] == "prune_neurons":
    sys.exit("error: params.yaml: this cut would empty layer 0")
shrinking = sys.argv[1] in ("finetune", "report", "evaluate@finetuned")
tuned = sys.argv[1] in ("evaluate@finetuned", "evaluate@tuned_parent")
left = 1 - size if shrinking else 1.0
figures = {
    "size_reduction": size, "bytes_reduction": size, "tokens": params["finetune"]["max_tokens"],
    "perplexity": (5 if tuned else 10) / left,
    "bits_per_byte": 1 / left, "acc": 0.5 * left, "acc_norm": 0.5 * left, "checkpoint_bytes": round(1e6 * left),
}
if sys.argv[1] == "check_budget":
    figures = {"budget": size > 0}
for name in sys.argv[2:]:
    path = Path(name) if Path(name).suffix else Path(name, "tokenizer.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures) if path.suffix == ".json" else f"{size} {rate}")
"""


class StandIn(Project):
    """A git repository with the real dvc.yaml and params.yaml, but for the stages' commands."""

    def _copy_checkout(self) -> None:
        super()._copy_checkout()
        stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        standing_in = {stage: _standing_in(stage, spec) for stage, spec in stages.items()}
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": standing_in}))
        (self.folder / "stand_in.py").write_text(SCRIPT)


def _standing_in(stage: str, spec: dict[str, Any]) -> dict[str, Any]:
    item = "@${item.checkpoint}" if "matrix" in spec else ""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in spec.get(kind, ())]
    written = [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]
    deps = [path for path in spec.get("deps", ()) if not path.startswith(("src/", "stages/"))]  # its script isn't run
    return {**spec, "deps": deps, "cmd": f"python stand_in.py {stage}{item} {' '.join(written)}"}
