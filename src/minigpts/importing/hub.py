"""Models from the hub through its own client: the standard cache (HF_HOME), resumed downloads, HF_TOKEN, HF_ENDPOINT.

Only configs, tokenizer files and safetensors are ever asked for: no code, and no pickle. Small files come first, so that a
model that can't be used is refused before its weights are fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts.download.hub_errors import refusal
from minigpts.errors import UserError, blaming, named
from minigpts.importing import contents, local_folder, staging
from minigpts.importing.imported import Description, ImportedModel
from minigpts.importing.paper_models import HubModel
from minigpts.model.weights import WEIGHTS

if TYPE_CHECKING:
    import torch

CONVERSION_BOT = "SFconvertbot"  # the hub's own account, which adds safetensors to a repository in a pull request


def name(model: HubModel) -> str:
    """What messages call a model: ``owner/name@revision``."""
    return f"{model.repo_id}@{model.revision}"


def read(model: HubModel, dtype: torch.dtype) -> ImportedModel:
    """Fetch a model and read it, its weights converted to ``dtype``.

    What can't be used is refused before its weights are fetched. Raises UserError as :func:`download` and ``local_folder.read``.
    """
    small = _download_small_files(model)
    with named(small, name(model)):
        local_folder.describe(small, dtype)
        first_time = not all((small / file).exists() for file in staging.weight_files(small))
    folder = _download_weights(model, small)
    with named(folder, name(model)):
        return local_folder.read(folder, dtype, beside=_listed(model.repo_id, folder.name) if first_time else ())


def describe(model: HubModel, dtype: torch.dtype) -> Description:
    """The model without its weights, which are not fetched. Raises UserError as :func:`read` does before it fetches them."""
    small = _download_small_files(model)
    with named(small, name(model)):
        return local_folder.describe(small, dtype)


def download(model: HubModel) -> Path:
    """The folder in the hub's cache that holds the model's files, fetched unless they are there.

    A revision that isn't a commit is resolved, and its commit printed. Raises UserError when the repository or revision
    doesn't exist, is gated, can't be reached or has no safetensors, and when its config tells that it can't be used.
    """
    return _download_weights(model, _download_small_files(model))


def _download_small_files(model: HubModel) -> Path:
    with _explained(model):
        folder = _fetch(model, contents.SMALL_FILES)
    if folder.name != model.revision:  # the cache names its folders by commit
        print(f"{name(model)} is commit {folder.name} today; set model.revision to it to keep it", flush=True)
    with named(folder, name(model)):
        staging.check_config(folder)
        staging.weight_files(folder)
    return folder


def _download_weights(model: HubModel, folder: Path) -> Path:
    weights = staging.weight_files(folder)
    with _explained(model):
        _fetch(HubModel(model.repo_id, folder.name), weights)
        if any((folder / file).exists() for file in weights):
            return folder
        converted = _conversion(model)
    if model.or_conversion and converted is not None:
        print(f"{name(model)} has pickled weights alone; taking {converted}, the hub's own conversion to safetensors", flush=True)
        return download(HubModel(model.repo_id, converted))
    todo = f"set model.revision: {converted}, the hub's own conversion to safetensors"
    if converted is None:
        todo = "set model.revision to one with safetensors, such as a pull request's (refs/pr/N)"
    raise UserError(f"{name(model)}: its weights are pickled, and unpickling can run any code; {todo}")


def _listed(repo_id: str, commit: str) -> list[str]:
    """Names of all files of a repository, folders as one."""
    from huggingface_hub import HfApi

    with _explained(HubModel(repo_id, commit)):
        return sorted({file.split("/")[0] for file in HfApi().list_repo_files(repo_id, revision=commit)})


def _fetch(model: HubModel, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model.repo_id, revision=model.revision, allow_patterns=list(files)))


def _conversion(model: HubModel) -> str | None:
    """The pull request in which the hub's bot has put pickled weights into safetensors. Raises UserError without weights."""
    from huggingface_hub import HfApi

    api = HfApi()
    if not any(file.endswith(local_folder.PICKLED) for file in api.list_repo_files(model.repo_id, revision=model.revision)):
        raise UserError(
            f"{name(model)}: has neither {WEIGHTS} nor {contents.INDEX}; name a repository with a language model's weights"
        )
    for request in api.get_repo_discussions(
        model.repo_id, author=CONVERSION_BOT, discussion_type="pull_request", discussion_status="open"
    ):
        if request.author == CONVERSION_BOT:  # anybody may open one
            return request.git_reference
    return None


@contextmanager
def _explained(model: HubModel) -> Iterator[None]:
    """Turn the client's exceptions into one line each."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    with blaming(name(model), "the download failed; check the network, and HF_ENDPOINT where it is set"):
        try:
            yield
        except errors.HFValidationError as error:
            raise UserError(f"params.yaml: model.repo_id: {str(error).splitlines()[0]}") from None
        except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx.HTTPError) as error:
            raise UserError(f"{name(model)}: {_explanation(error, model.repo_id)}") from None


def _explanation(error: BaseException | None, repo_id: str) -> str:
    """What went wrong and what to do. The client reports a hub that it can't use as a file that isn't in the cache, and why."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if refused := refusal(error, "repository", f"{hub}/{repo_id}", "model.repo_id", "model.revision"):
        return refused
    match error:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set, and the cache hasn't got all of it; unset it to download"
        case errors.LocalEntryNotFoundError(__cause__=errors.HfHubHTTPError() | errors.OfflineModeIsEnabled() as cause):
            return _explanation(cause, repo_id)
        case errors.LocalEntryNotFoundError():
            return f"can't reach {hub}; check the network, or HF_ENDPOINT"
    return f"the connection broke ({error}); run again, whole files are kept"
