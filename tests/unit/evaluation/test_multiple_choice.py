"""Token trees score what scoring every choice by itself scores; accuracies are lm-evaluation-harness's."""

import math

import numpy as np
import pytest
import torch
from tokenizers import processors

from minigpts.evaluation import multiple_choice
from minigpts.model import checkpoint
from tests import tiny

QUESTIONS = [
    {
        "question": text,
        "choices": [f"{word} near", f"{word} near the {word}", "é✓", f"abnormality of the {text[:5]}", "an"][: 2 + index % 4],
        "answer": index % 2,
    }
    for index, (text, word) in enumerate(zip(tiny.sentences(11), tiny.WORDS, strict=False))
]


@pytest.fixture(scope="module", params=["llama", "opt", "gemma2"])  # gemma2: windows of 12 tokens in some layers, capped logits
def parts(request, tmp_path_factory):
    directory = tiny.write_checkpoint(tmp_path_factory.mktemp("model") / "base", request.param)
    return checkpoint.load_model(directory, torch.float32), checkpoint.load_fast_tokenizer(directory)


def plain_scores(model, tokenizer, question) -> list[float]:
    """ln p(choice | context) as lm-evaluation-harness does it: encode the whole, split at the context's length, full logits."""
    longest = model.config.max_position_embeddings
    context = f"Question: {question['question']}\nAnswer:"
    start = tokenizer.encode(context).ids
    values = []
    for choice in question["choices"]:
        continuation = tokenizer.encode(f"{context} {choice}").ids[len(start) :]
        ids = torch.tensor([(start + continuation)[-(longest + 1) :]])
        with torch.inference_mode():
            logits = model(ids[:, :-1]).logits.double().log_softmax(-1)
        scored = logits.gather(-1, ids[:, 1:, None])[0, -len(continuation) :]
        values.append(scored.sum().item())
    return values


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_trees_equal_full_sequences(parts, batch_tokens):
    model, tokenizer = parts
    scores = multiple_choice.score(model, tokenizer, QUESTIONS, batch_tokens=batch_tokens)
    for question, got in zip(QUESTIONS, scores, strict=True):
        np.testing.assert_allclose(got, plain_scores(model, tokenizer, question), atol=1e-4, rtol=0)


def test_a_question_longer_than_the_model_is_cut_from_the_left(parts):
    model, tokenizer = parts  # 256 positions
    question = {"question": " ".join(tiny.sentences(30)), "choices": ["heart", "lung and liver"]}
    assert len(tokenizer.encode(question["question"]).ids) > 300
    (scores,) = multiple_choice.score(model, tokenizer, [question], batch_tokens=500)
    np.testing.assert_allclose(scores, plain_scores(model, tokenizer, question), atol=1e-4, rtol=0)


def test_special_tokens_are_the_tokenizers_own(parts):
    model, tokenizer = parts
    with_bos = type(tokenizer).from_str(tokenizer.to_str())
    with_bos.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    (scores,) = multiple_choice.score(model, with_bos, QUESTIONS[:1], batch_tokens=500)
    np.testing.assert_allclose(scores, plain_scores(model, with_bos, QUESTIONS[0]), atol=1e-4, rtol=0)
    assert abs(scores - multiple_choice.score(model, tokenizer, QUESTIONS[:1], batch_tokens=500)[0]).max() > 1e-2


def test_a_tree_holds_every_shared_prefix_once():
    tree = multiple_choice._tree([([7, 8], [1, 2, 3]), ([7, 8], [1, 4]), ([7, 8], [9])], longest=100)
    assert tree.tokens.tolist() == [7, 8, 1, 2]
    assert tree.positions.tolist() == [0, 1, 2, 3]
    assert [nodes.tolist() for nodes in tree.predicting] == [[1, 2, 3], [1, 2], [1]]
    assert [ids.tolist() for ids in tree.targets] == [[1, 2, 3], [1, 4], [9]]


def test_accuracy_by_hand():
    choices = ["ab", "abcdefgh"]
    questions = [{"choices": choices, "answer": answer} for answer in (0, 1, 1, 1)]
    scores = [np.array([-2.0, -6.0]), np.array([-2.0, -6.0]), np.array([-3.0, -1.0]), np.array([-5.0, -5.0])]
    got = multiple_choice.accuracy(questions, scores)  # picks 0, 0, 1, 0 plainly and 1, 1, 1, 1 by length; a tie takes the first
    assert got["acc"] == 0.5
    assert got["acc_norm"] == 0.75
    assert got["acc_stderr"] == pytest.approx(math.sqrt((4 * 0.25) / 3 / 4))
    assert got["acc_norm_stderr"] == pytest.approx(math.sqrt((3 * 0.0625 + 0.5625) / 3 / 4))


def test_no_questions_have_no_accuracy(parts):
    assert multiple_choice.accuracy([], multiple_choice.score(*parts, [], batch_tokens=500)) == {}
