"""Streams rows of tables on the hub, or of single files anywhere, through the `datasets` library.

The hub's own client reads HF_TOKEN and HF_ENDPOINT. No code of a repository is run, only its parquet, csv or json is read.
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
    """The commit that a revision of a data set points to.

    Raises UserError when the data set or the revision doesn't exist, is gated, or the hub can't be reached.
    """
    from huggingface_hub import HfApi

    with _explained(f"{repo_id}@{revision}", repo_id):
        HfApi().auth_check(repo_id, repo_type="dataset")  # a gated one tells everybody its commit
        return str(HfApi().dataset_info(repo_id, revision=revision).sha)


def rows(
    repo_id: str, revision: str, name: str | None, split: str, data_files: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's location and its columns, from a data set's configuration ``name`` (None: its only one).

    ``data_files``, where given, are read one by one instead: for repositories with a loading script, which is never run, and for
    files whose columns differ. Raises UserError as :func:`commit`, for a missing configuration, split or file, and when a
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
    """Each row's location and its columns, from a parquet, csv or json file at an address or a path, gzip or not.

    ``where`` is the file's name in messages, by default its address. ``reader`` holds options of the library's reader of such
    files: ``sep``, ``names`` … for csv, where words like "None" and "NA" are text. Raises UserError as :func:`rows`.
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
    """Turn an exception of the libraries into a UserError."""
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
