"""Rows of tables on the hub, or of single files anywhere, through the `datasets` library: streamed, never the whole in memory.

The hub's own client says who asks (HF_TOKEN) and where the hub is (HF_ENDPOINT). No code of a repository is run: its tables are
read as the parquet, csv or json they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from minigpts.download.hub_errors import refusal
from minigpts.errors import UserError

_READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def commit(repo_id: str, revision: str) -> str:
    """The commit that a revision of a data set is at.

    Raises UserError when the data set or the revision doesn't exist, is gated, or the hub can't be reached.
    """
    from huggingface_hub import HfApi

    with _explained(f"{repo_id}@{revision}", repo_id):
        HfApi().auth_check(repo_id, repo_type="dataset")  # a gated one tells everybody its commit
        return str(HfApi().dataset_info(repo_id, revision=revision).sha)


def rows(
    repo_id: str, revision: str, name: str | None, split: str, data_files: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and its columns; of a data set's configuration ``name`` (None: its only one).

    ``data_files`` are read one by one instead where given: in repositories with a loading script, which is never run, and
    where the files' columns differ. Raises UserError as :func:`commit`, for a missing configuration, split or file, and when a
    table can't be read or the connection breaks.
    """
    at = commit(repo_id, revision)
    if data_files:
        for file in data_files:
            yield from file_rows(f"hf://datasets/{repo_id}@{at}/{file}")
    else:
        where = ", ".join(filter(None, [f"{repo_id}@{revision}", name, split]))
        yield from _streamed(where, repo_id, name=name, revision=at, split=split)


def file_rows(address: str, where: str | None = None, **reader: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and its columns; of a parquet, csv or json file at an address or a path, gzip or not.

    ``where``: what to call the file instead. ``reader`` goes to the library's reader of such files: ``sep``, ``names`` … for csv,
    whose words like "None" and "NA" are text. Raises UserError as :func:`rows`.
    """
    kind = _READERS[PurePosixPath(address.removesuffix(".gz")).suffix]
    options = {"keep_default_na": False, **reader} if kind == "csv" else reader
    yield from _streamed(where or address, kind, data_files=[address], split="train", **options)


def read(address: str) -> bytes:
    """A whole file at an address or a path. Raises UserError as :func:`file_rows`."""
    import fsspec  # type: ignore[import-untyped]

    with _explained(address, address), fsspec.open(address) as file:
        return bytes(file.read())


def _streamed(where: str, path: str, **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    number = 0
    with _explained(where, path):
        for number, row in enumerate(load_dataset(path, streaming=True, **options), start=1):
            yield f"{where}: row {number}", row


@contextmanager
def _explained(where: str, repo_id: str) -> Iterator[None]:
    """Turn the libraries' exceptions into one line each."""
    import pyarrow
    from aiohttp import ClientError
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx

    try:
        yield
    # OSError: the hub's own, files that aren't there, connections; ValueError: splits, configurations, unreadable tables.
    except (OSError, ValueError, RuntimeError, DatasetsError, ClientError, httpx.HTTPError, pyarrow.ArrowException) as error:
        raise UserError(f"{where}: {_explanation(error, repo_id)}") from None


def _explanation(error: Exception, repo_id: str) -> str:
    """What went wrong and what to do."""
    from aiohttp import ClientError
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx

    hub = constants.ENDPOINT
    if refused := refusal(error, "data set", f"{hub}/datasets/{repo_id}", "its name", "its revision"):
        return refused
    said = (str(error).splitlines() or [type(error).__name__])[0]
    match error:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set, and rows come over the network; unset it, or set dataset.source to a file of your own"
        case httpx.ConnectError() | httpx.TimeoutException():
            return f"can't reach {hub}; check the network, or HF_ENDPOINT"
        case FileNotFoundError():
            return f"no such file, or no network to fetch it ({said})"
        case ConnectionError() | TimeoutError() | ClientError() | httpx.HTTPError():
            return f"the connection broke ({said}); run again"
    return f"can't be read ({said})"
