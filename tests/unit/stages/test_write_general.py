"""What the parent writes is its own sample in its own template, the same whatever the batch, and no prompt of the evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from minigpts import artifacts
from minigpts.corpus import written
from minigpts.corpus.chats import CONTROL
from minigpts.corpus.readers.chat_rows import LeftOut
from minigpts.errors import UserError
from minigpts.evaluation.speech.general import GENERAL
from minigpts.evaluation.speech.replies import loops
from minigpts.model import checkpoint
from minigpts.model.weights import WEIGHTS, StoredWeights, write_tensors
from stages import write_general
from tests import tiny
from tests.unit.corpus.chat_templates import FAMILIES

TEMPLATE = FAMILIES["chatml"].template
CHAT = re.compile(
    r"<\|im_start\|>system\nBe brief\.<\|im_end\|>\n<\|im_start\|>user\n(?P<question>.+)<\|im_end\|>\n"
    r"<\|im_start\|>assistant\n(?P<reply>.+)<\|im_end\|>",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    """A checkpoint that ends about every twentieth token it says, with ChatML's template."""
    return write_talker(tmp_path_factory.mktemp("talker") / "model", end=4.0)


def write_talker(folder: Path, end: float) -> Path:
    tiny.write_checkpoint(folder, "phi", tie_word_embeddings=False)
    weights = dict(StoredWeights(folder))
    weights["lm_head.weight"] *= 0.5
    weights["lm_head.bias"][2] = end
    weights["lm_head.bias"][checkpoint.load_fast_tokenizer(folder).get_vocab_size() :] = -30.0  # rows that are no token's
    write_tensors(folder / WEIGHTS, weights, {"format": "pt"})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def run(folder: Path, model: Path, batch_tokens: int = 4096, **settings: int) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    runtime = {"batch_tokens": batch_tokens, "num_threads": 1, "launcher": None}
    document = {"write_general": {"tokens": 400, "seed": 0, **settings}, "runtime": runtime}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    names = {"out": "written.parquet", "metrics": "metrics.json", "params": "params.yaml"}
    paths = {"model": model, **{flag: folder / name for flag, name in names.items()}}
    write_general.main([text for flag, path in paths.items() for text in (f"--{flag}", str(path))])
    return artifacts.read_json(folder / "metrics.json")


def rows(folder: Path) -> tuple[list[str], list[list[list[int]] | None]]:
    table = artifacts.read_table(folder / "written.parquet", ["text", "loss_spans"])
    return table["text"], table["loss_spans"]


def test_it_writes_chats_that_are_learnt_on_the_replies_alone(tmp_path, talker):
    metrics = run(tmp_path, talker)
    texts, spans = rows(tmp_path)
    tokenizer = checkpoint.load_fast_tokenizer(talker)
    tokens, questions = 0, []
    for text, ((first, end),) in zip(texts, spans, strict=True):
        chat = CHAT.fullmatch(text)
        assert text[first:end] == f"{chat['reply']}<|im_end|>"
        turns = [tokenizer.encode(chat[name]).ids for name in ("question", "reply")]
        assert all(turns) and not any(map(loops, turns))
        tokens += sum(map(len, turns))
        questions.append(chat["question"])
    assert metrics["kind"] == "chats" and metrics["documents"] == len(texts) > 10
    assert metrics["bytes"] == sum(len(text.encode()) for text in texts)
    assert metrics["tokens"] == tokens >= 400 and metrics["tokens_with_those_left_out"] > tokens
    assert sum(metrics["left_out"].values()) + len(texts) == written.ROWS and len(set(questions)) == len(questions)


def test_neither_the_batch_nor_the_run_changes_a_byte_and_the_seed_does(tmp_path, talker):
    whole, parts, other = (tmp_path / name for name in ("whole", "parts", "other"))
    assert run(whole, talker) == run(parts, talker, batch_tokens=60) and run(other, talker, seed=1)  # 48 prompts at a time, and few
    assert (whole / "written.parquet").read_bytes() == (parts / "written.parquet").read_bytes()
    assert not set(rows(whole)[0]) & set(rows(other)[0])


def test_more_tokens_begin_with_the_same_texts(tmp_path, talker):
    run(tmp_path / "few", talker)
    run(tmp_path / "many", talker, tokens=900)
    few, many = rows(tmp_path / "few")[0], rows(tmp_path / "many")[0]
    assert len(many) > len(few) and many[: len(few)] == few


def test_tokens_are_as_frequent_as_the_model_finds_them_likely(talker, monkeypatch):
    author, chats = _chats(talker)
    head = author.encode(chats.head)
    monkeypatch.setattr(torch, "rand", lambda count, most, generator: ((torch.arange(count) + 0.5) / count)[:, None])
    ended = sum(ended for _, ended in author.say([head] * 480, 0.25, 1))
    with torch.no_grad():
        likely = author.model(torch.tensor([head])).logits[0, -1].softmax(-1)
    expected = 480 * float(likely[2] / likely.topk(256).values.sum())  # the sampler draws out of so many
    assert expected > 10 and ended == pytest.approx(expected, abs=1)


def test_without_a_template_it_writes_plain_texts(tmp_path):
    model = write_talker(tmp_path / "model", end=4.0)
    (model / "chat_template.jinja").unlink()
    metrics = run(tmp_path / "out", model)
    texts, spans = rows(tmp_path / "out")
    assert metrics["kind"] == "texts" and metrics["documents"] == len(texts) > 3 and set(spans) == {None}
    assert all(text.strip() for text in texts)


def test_a_template_that_shows_no_users_turn_is_none(tmp_path):
    model = write_talker(tmp_path / "model", end=4.0)
    (model / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    assert run(tmp_path / "out", model)["kind"] == "texts"


def test_nothing_is_written_unless_it_is_asked_for(tmp_path):
    assert run(tmp_path, tmp_path / "nowhere", tokens=0) == {}
    assert rows(tmp_path) == ([], [])


def test_a_parent_that_says_nothing_is_given_up(tmp_path):
    mute = write_talker(tmp_path / "model", end=60.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/written.parquet").write_text("earlier")
    with pytest.raises(UserError, match=r"tokens it wrote, only 0 are worth keeping.*empty turns") as caught:
        run(tmp_path / "out", mute, tokens=20)
    assert "\n" not in str(caught.value) and (tmp_path / "out/written.parquet").read_text() == "earlier"


@pytest.mark.parametrize("changes", [{"tokens": -1}, {"seed": -1}])
def test_a_wrong_value_is_refused(tmp_path, changes):
    with pytest.raises(UserError, match=rf"params.yaml: write_general.{next(iter(changes))} must be ≥ 0"):
        run(tmp_path, tmp_path, **changes)


def _chats(folder: Path) -> tuple[written.Author, written.Chats]:
    model, tokenizer = checkpoint.load_model(folder, torch.float32), checkpoint.load_fast_tokenizer(folder)
    author = written.Author(model, tokenizer, torch.Generator().manual_seed(0), 4096)
    return author, written._writer(folder, author)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ((GENERAL[0], True), written.EVALUATED),
        ((f"Please tell me: {GENERAL[3].upper()}!", True), written.EVALUATED),
        (("What is a heart", False), written.UNFINISHED),
        ((" \n", True), written.EMPTY),
        (("heart lung " * 9, True), written.LOOP),
    ],
)
def test_questions_that_are_left_out(talker, said, reason):
    _, chats = _chats(talker)
    with pytest.raises(LeftOut, match=reason):
        chats._question(said)


def test_a_question_counts_once_and_a_turn_ends_where_the_template_ends_it(talker):
    _, chats = _chats(talker)
    assert chats._question(("What is a heart?<|im_end|>\n<|im_start|>assistant\nIt", False)) == "What is a heart?"
    with pytest.raises(LeftOut, match=written.REPEATED):
        chats._question(("what is a heart", True))
    with pytest.raises(LeftOut, match=CONTROL):
        chats._document(("What is a heart?", ("It <|im_start|>beats.", True)))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_users_turn_is_found_in_the_manner_of_ten_families(talker, name, tmp_path):
    author, _ = _chats(talker)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    (tmp_path / "chat_template.jinja").write_text(FAMILIES[name].template)
    template = written.ChatTemplate.of(tmp_path)
    chats = written.Chats(author, template, None)
    asked = template.render([{"role": "user", "content": "Why?"}], prompt=True)
    assert re.sub(r"\s", "", asked).startswith(re.sub(r"\s", "", f"{chats.head}Why?{chats.end_of_question}"))
    assert chats.head and chats.end_of_question and chats.end_of_reply == FAMILIES[name].end.strip()
