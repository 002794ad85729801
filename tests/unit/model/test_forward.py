"""Heads, log-likelihoods and masks of every family are the stock model's, in slices of any size."""

import numpy as np
import pytest
import torch

from minigpts.model import checkpoint, forward
from minigpts.model.packing import IGNORED, Boundaries, cut_document, pack_documents
from tests import tiny

IDS = torch.randint(3, 300, (2, 15), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["llama", "opt", "gemma2", "gemma3_text softcapped", "phi", "granite"])  # caps, windows, …
def model(request, tmp_path_factory):
    family, changes = tiny.VARIANTS[request.param]
    return checkpoint.load_model(tiny.write_checkpoint(tmp_path_factory.mktemp("model") / "m", family, **changes), torch.float32)


def test_the_head_makes_the_stock_models_logits_of_last_hidden_states(model):
    with torch.inference_mode():
        logits = forward.head_of(model).logits(forward.last_hidden_states(model, IDS).flatten(0, 1))
        torch.testing.assert_close(logits, model(IDS).logits.flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_the_slope_is_the_derivative_of_the_cap(model):
    head = forward.head_of(model)
    hidden = torch.randn(7, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    uncapped = torch.nn.functional.linear(hidden, head.weight, head.bias).detach().requires_grad_()
    capped = uncapped if head.cap is None else head.cap * torch.tanh(uncapped / head.cap)
    (expected,) = torch.autograd.grad(capped.sum(), uncapped)
    with torch.no_grad():
        slope = head.slope(head.logits(hidden))
    assert (slope is None) == (head.cap is None)
    torch.testing.assert_close(torch.ones_like(expected) if slope is None else slope, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_log_likelihoods_are_those_of_full_logits(model, rows, monkeypatch):
    with torch.inference_mode():
        hidden = forward.last_hidden_states(model, IDS)[:, :-1].flatten(0, 1)
        logits = model(IDS).logits[:, :-1].flatten(0, 1).double().log_softmax(-1)
        monkeypatch.setattr(forward, "SLICE_ELEMENTS", rows * model.config.vocab_size)
        found = forward.log_likelihoods(model, hidden, IDS[:, 1:].flatten())
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, logits.gather(-1, IDS[:, 1:].reshape(-1, 1))[:, 0], rtol=1e-5, atol=1e-5)


def test_no_targets_have_no_likelihoods(model):
    with torch.inference_mode():
        assert forward.log_likelihoods(model, torch.empty(0, model.config.hidden_size), torch.empty(0, dtype=torch.long)).size == 0


def test_under_a_document_mask_each_document_of_a_row_is_computed_as_if_by_itself(model):
    pieces = [piece for row in IDS.numpy() for length in (4, 9) for piece in cut_document(row[:length], Boundaries(1, 2), 40)]
    ids, labels = torch.from_numpy(pack_documents(pieces, 40)).unbind(1)
    with torch.inference_mode():
        packed = forward.last_hidden_states(model, ids, **forward.document_mask(model, labels == IGNORED))
        for piece in map(torch.from_numpy, pieces):
            ((row, start),) = [
                (row, start)
                for row in range(len(ids))
                for start in range(41 - len(piece))
                if torch.equal(ids[row, start : start + len(piece)], piece) and labels[row, start] == IGNORED
            ]
            alone = forward.last_hidden_states(model, piece[None])[0]
            torch.testing.assert_close(packed[row, start : start + len(piece)], alone, rtol=1e-4, atol=1e-4)
