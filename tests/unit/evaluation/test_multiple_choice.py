"""Token trees score what scoring every choice by itself scores; accuracies are lm-evaluation-harness's."""

import math
from datetime import date

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from minigpts.errors import UserError
from minigpts.evaluation import multiple_choice
from minigpts.model import checkpoint
from minigpts.model.chat_template import ChatTemplate, on_the_day
from tests import tiny
from tests.unit.corpus.chat_templates import FAMILIES as CHAT_FAMILIES
from tests.unit.corpus.chat_templates import write_parent
from tests.unit.post_processors import POST_PROCESSORS

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


def plain_scores(model, tokenizer, question, before=()) -> list[float]:
    """ln p(choice | context) as lm-evaluation-harness does it: encode the whole, split at the context's length, full logits.

    ``before``: the ids that the tokenizer puts before a text.
    """
    context = f"Question: {question['question']}\nAnswer:"
    start = [*before, *tokenizer.encode(context, add_special_tokens=False).ids]
    wholes = [tokenizer.encode(f"{context} {choice}", add_special_tokens=False).ids for choice in question["choices"]]
    return [_plain_ln_p(model, start, [*before, *whole][len(start) :]) for whole in wholes]


def _plain_ln_p(model, context, continuation) -> float:
    """From full logits, in float64; of inputs too long for the model, the last ones."""
    ids = torch.tensor([[*context, *continuation][-(model.config.max_position_embeddings + 1) :]])
    with torch.inference_mode():
        logits = model(ids[:, :-1]).logits.double().log_softmax(-1)
    return logits.gather(-1, ids[:, 1:, None])[0, -len(continuation) :].sum().item()


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


def _with(tokenizer, name):
    """A copy of the tokenizer with one of POST_PROCESSORS, and the ids that this puts before a text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    processor, before = POST_PROCESSORS[name]
    if processor is not None:
        copy.post_processor = processor
    return copy, before


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_of_the_special_tokens_those_before_the_text_count_and_those_behind_it_do_not(parts, name):
    model, tokenizer = parts
    tokenizer, before = _with(tokenizer, name)
    scores = multiple_choice.score(model, tokenizer, QUESTIONS[:3], batch_tokens=500)
    for question, got in zip(QUESTIONS, scores, strict=False):
        np.testing.assert_allclose(got, plain_scores(model, tokenizer, question, before), atol=1e-4, rtol=0)
        assert len(set(got)) == len(got)  # an end token behind each choice made one-token choices all alike


def test_bos_tokens_are_seen(parts):
    model, tokenizer = parts
    bare, bos = (
        multiple_choice.score(model, _with(tokenizer, name)[0], QUESTIONS[:1], batch_tokens=500) for name in ("none", "bos")
    )
    assert abs(bare[0] - bos[0]).max() > 1e-2


# Merges that join the prompt's end with what follows, and how many of the prompt's last tokens a question shares then. "Ġ" is a
# space; the prompt ends in "Answer:".
SPANNING = {
    "none": ([], 0),
    "behind the prompt": ([("Ġ", "C"), ("ĠC", "a")], 0),
    "colon and space": ([(":", "Ġ")], 1),
    "with a letter": ([(":", "Ġ"), (":Ġ", "C")], 1),
    "with some letters": ([("Ġ", "C"), (":", "ĠC"), ("Ġ", "D")], 1),
    "with a word": ([("C", "a"), ("r", ":"), ("r:", "Ġ"), ("r:Ġ", "Ca")], 1),
    "a whole choice": ([("l", "u"), (":", "Ġ"), (":Ġ", "C"), (":Ġ", "lu"), ("e", "r"), ("er", ":ĠC")], 2),
}
CHOICES = ["C", "D x", "Ca", "lu", "Cat nap", " C", "é", "A"]


def spanning_parts(name):
    """A tokenizer whose tokens may span any boundary, since nothing splits the text beforehand, and a model for it."""
    merges = SPANNING[name][0]
    tokens = [*tiny.SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in merges)]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny.llama_config(len(tokens), initializer_range=0.3)).eval()
    return model, tokenizer


@pytest.mark.parametrize("processor", ["none", "bos", "eos", "roberta"])
@pytest.mark.parametrize("name", SPANNING)
def test_choices_compare_by_their_own_likelihoods_wherever_tokens_begin(name, processor):
    model, tokenizer = spanning_parts(name)
    tokenizer, before = _with(tokenizer, processor)
    question = {"question": "Which letter?", "choices": CHOICES}
    (scores,) = multiple_choice.score(model, tokenizer, [question], batch_tokens=500)
    texts = [f"Question: Which letter?\nAnswer: {choice}" for choice in CHOICES]
    wholes = [[*before, *tokenizer.encode(text, add_special_tokens=False).ids] for text in texts]
    likelihoods = np.array([_plain_ln_p(model, whole[:1], whole[1:]) for whole in wholes])  # of prompt and choice together
    np.testing.assert_allclose(scores - scores[0], likelihoods - likelihoods[0], atol=2e-4, rtol=0)
    assert (scores < -1e-2).all() and len(set(scores)) == len(scores)  # no choice is scored on nothing


@pytest.mark.parametrize("name", ["none", "behind the prompt", "with some letters"])
def test_where_the_prompts_tokens_begin_the_wholes_scores_are_the_harnesss(name):
    model, tokenizer = spanning_parts(name)
    start = tokenizer.encode("Question: Which letter?\nAnswer:").ids
    wholes = {choice: tokenizer.encode(f"Question: Which letter?\nAnswer: {choice}").ids for choice in CHOICES}
    question = {"question": "Which letter?", "choices": [key for key, whole in wholes.items() if whole[: len(start)] == start]}
    assert len(question["choices"]) == (len(CHOICES) - 3 if name == "with some letters" else len(CHOICES))
    (scores,) = multiple_choice.score(model, tokenizer, [question], batch_tokens=500)
    np.testing.assert_allclose(scores, plain_scores(model, tokenizer, question), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SPANNING)
def test_the_boundary_steps_back_no_further_than_it_must(name):
    _, tokenizer = spanning_parts(name)
    pairs = multiple_choice._encode(tokenizer, {"question": "Which letter?", "choices": CHOICES})
    prompt = tokenizer.encode("Question: Which letter?\nAnswer:").ids
    assert {tuple(context) for context, _ in pairs} == {tuple(prompt[: len(prompt) - SPANNING[name][1]])}


@pytest.mark.parametrize("name", CHAT_FAMILIES)
def test_through_a_chat_template_scores_are_the_harnesss(tmp_path, name):
    folder = write_parent(tmp_path / "parent", CHAT_FAMILIES[name])
    tokenizer, theirs = checkpoint.load_fast_tokenizer(folder), checkpoint.load_tokenizer(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny.llama_config(tokenizer.get_vocab_size(), initializer_range=0.3)).eval()
    question = {"question": "Which organ beats?", "choices": ["heart", "Heart and lung", " nail", "é✓", "\nbone"]}
    (scores,) = multiple_choice.score(model, tokenizer, [question], batch_tokens=500, template=ChatTemplate.of(folder))
    turns = [{"role": "user", "content": "Question: Which organ beats?\nAnswer:"}]
    prompt = theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    prompt = prompt.replace(f"{date.today():%d %b %Y}", on_the_day("%d %b %Y"))  # llama 3's asks the clock
    added = not (theirs.bos_token and prompt.startswith(theirs.bos_token))  # once, by the tokenizer or by the template
    start = theirs.encode(prompt.rstrip(), add_special_tokens=added)
    wholes = [theirs.encode(prompt + choice, add_special_tokens=added) for choice in question["choices"]]
    assert all(whole[: len(start)] == start for whole in wholes)
    expected = [_plain_ln_p(model, start, whole[len(start) :]) for whole in wholes]
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


def test_a_template_that_refuses_a_question_is_one_line():
    model, tokenizer = spanning_parts("none")
    refusing = ChatTemplate("a.jinja", "{{ raise_exception('a system message, please') }}", {})
    with pytest.raises(UserError, match=r"^evaluate\.chat: the chat template refuses a question; .*a system message, please\)$"):
        multiple_choice.score(model, tokenizer, [{"question": "?", "choices": CHOICES}], batch_tokens=500, template=refusing)


def test_a_choice_without_a_token_is_never_picked():
    model, tokenizer = spanning_parts("none")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), tokenizer.pre_tokenizer])
    question = {"question": "Which letter?", "choices": [" ", "C", "A"]}
    (scores,) = multiple_choice.score(model, tokenizer, [question], batch_tokens=500)
    assert scores[0] == -math.inf and np.isfinite(scores[1:]).all()


def test_choices_that_share_no_token_with_the_prompt_are_predicted_from_a_bos_token():
    texts = ["Question: ?\nAnswer:", *(f"Question: ?\nAnswer: {choice}" for choice in ("A", "B"))]
    tokenizer = Tokenizer(models.WordLevel({text: 3 + index for index, text in enumerate(["a", *texts])}))
    model, _ = spanning_parts("none")
    (scores,) = multiple_choice.score(model, tokenizer, [{"question": "?", "choices": ["A", "B"]}], batch_tokens=500)
    np.testing.assert_allclose(scores, [_plain_ln_p(model, [2], [token_id]) for token_id in (5, 6)], atol=1e-4, rtol=0)


def test_a_tree_holds_every_shared_prefix_once():
    tree = multiple_choice._tree([([7, 8], [1, 2, 3]), ([7, 8], [1, 4]), ([7, 8], [9])], bos=2, longest=100)
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
