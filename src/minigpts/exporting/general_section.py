"""Where a GGUF file comes from, in its metadata: name, licence, parent, domain, sizes and this project's version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version

from minigpts.exporting.hyperparameters import Fields


@dataclass(frozen=True)
class Provenance:
    """What is known of a child besides its weights."""

    parent: str  # its name
    parent_version: str | None  # what pins it: a commit, a wheel and its version
    parent_url: str | None
    licence: str | None  # the parent's, by the hub's short names
    domain: str  # the data set's name
    num_parameters: int
    parent_parameters: int

    @property
    def name(self) -> str:
        """The child's name, and its file's: lower case, and nothing that a path or a shell would trip over."""
        return re.sub(r"[^\w.-]+", "-", f"{self.parent}-{self.domain}").strip("-.").lower()


def general_section(origin: Provenance) -> Fields:
    """The keys ``general.*`` that hubs and llama.cpp show, and ``minigpts.*`` with what those have no place for."""
    fields = {
        "general.type": "model",
        "general.name": origin.name,
        "general.basename": origin.parent,
        "general.finetune": origin.domain,
        "general.size_label": f"{origin.num_parameters / 1e6:.0f}M",
        "general.license": origin.licence,
        "general.base_model.count": 1,
        "general.base_model.0.name": origin.parent,
        "general.base_model.0.version": origin.parent_version,
        "general.base_model.0.repo_url": origin.parent_url,
        "minigpts.version": version("minigpts"),
        "minigpts.parent": origin.parent,
        "minigpts.revision": origin.parent_version,
        "minigpts.domain": origin.domain,
        "minigpts.num_parameters": origin.num_parameters,
        "minigpts.parent_parameters": origin.parent_parameters,
    }
    return {key: value for key, value in fields.items() if value is not None}
