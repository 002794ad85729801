"""What the hub refuses, in one line each, for models and data sets alike."""

from __future__ import annotations


def refusal(error: BaseException | None, kind: str, page: str, name: str, revision: str) -> str | None:
    """What an answer of the hub means and what to do; None for an error that isn't one.

    ``kind`` is what was asked for (repository, data set), ``page`` its address, ``name`` and ``revision`` what to check.
    """
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    match error:
        case errors.GatedRepoError():
            return f"the {kind} is gated; accept its terms at {page} and set HF_TOKEN to a token of that account"
        case errors.RepositoryNotFoundError():
            return f"no such {kind} at {hub}; check {name}, or set HF_TOKEN if it is private"
        case errors.RevisionNotFoundError():
            return f"the {kind} has no such revision; check {revision} at {page}/commits"
        case errors.HfHubHTTPError():
            status = error.response.status_code
            todo = "check HF_TOKEN" if status in (401, 403) else "try again later"
            return f"{hub} answers {status} {error.response.reason_phrase}; {todo}"
    return None
