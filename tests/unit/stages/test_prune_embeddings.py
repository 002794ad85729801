"""The stage on tiny checkpoints: what it writes is loaded with stock classes and compared with its parent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.vocabulary.counts import count_tokens, write_counts
from minigpts.vocabulary.keep import REASONS
from stages import prune_embeddings
from tests import tiny

TEXT = tiny.sentences(40)
CONVERSATION = [{"role": role, "content": TEXT[0]} for role in ("system", "user", "assistant")]


class Run:
    """A parent checkpoint, the counts of its tokens in TEXT, and the stage run on them."""

    def __init__(self, directory: Path, family: str = "llama", **changes: object) -> None:
        self.parent = tiny.write_checkpoint(directory / "parent", family, **changes)
        self.counts, self.out, self.metrics = directory / "counts.parquet", directory / "pruned", directory / "metrics.json"
        self.params = directory / "params.yaml"
        tokenizer = checkpoint.load_fast_tokenizer(self.parent)
        self.num_tokens = tokenizer.get_vocab_size()
        write_counts(self.counts, tokenizer, count_tokens(tokenizer, TEXT))

    def __call__(self, threshold: object = 0.0, **more: Path) -> None:
        self.params.write_text(f"embedding_threshold: {threshold}\nthreshold: 0.1\n")
        flags = {"model": self.parent, "counts": self.counts, "out": self.out, "metrics": self.metrics, "params": self.params}
        flags |= more
        prune_embeddings.main([item for name, path in flags.items() for item in (f"--{name}", str(path))])

    def kept(self) -> list[int]:
        table = artifacts.read_table(self.out / "pruned_tokens.parquet", ["token_id", "new_id"])
        return [token_id for token_id, new_id in zip(table["token_id"], table["new_id"], strict=True) if new_id >= 0]

    def edit(self, name: str, **changes: object) -> None:
        path = self.parent / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "eos_token_id": [2, 0]}),
        ("llama", {"vocab_size": 512}),  # rows beyond the tokenizer
        ("opt", {"bos_token_id": 2}),
        ("opt", {"tie_word_embeddings": False, "pad_token_id": 1}),
    ],
    ids=["llama tied", "llama untied", "llama padded", "opt tied", "opt untied"],
)
def test_a_stock_reload_equals_its_parent_on_the_kept_tokens(tmp_path: Path, family: str, changes: dict[str, object]) -> None:
    run = Run(tmp_path, family, **changes)
    run()
    kept = run.kept()
    full, stock = checkpoint.load_model(run.parent, torch.float32), AutoModelForCausalLM.from_pretrained(run.out)
    assert stock.config.vocab_size == len(kept) == len(AutoTokenizer.from_pretrained(run.out)) < run.num_tokens
    assert stock.config.tie_word_embeddings is full.config.tie_word_embeddings
    new = torch.tensor([Tokenizer.from_file(str(run.out / "tokenizer.json")).encode(TEXT[0]).ids])
    with torch.no_grad():
        logits = stock(new).logits
        torch.testing.assert_close(logits, full(torch.tensor(kept)[new]).logits[..., kept], rtol=0, atol=1e-5)
        assert torch.equal(checkpoint.load_model(run.out, torch.float32)(new).logits, logits)
    old_eos, new_eos = full.config.eos_token_id, stock.config.eos_token_id
    assert new_eos == ([kept.index(old) for old in old_eos] if isinstance(old_eos, list) else kept.index(old_eos))


def test_chat_template_renders_and_splits_as_before(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run()
    parent, child = AutoTokenizer.from_pretrained(run.parent), AutoTokenizer.from_pretrained(run.out)
    assert type(child) is type(parent)
    assert not {"Ġassistant", "assistant"} & set(child.tokenize(" ".join(TEXT)))
    old, new = (tokenizer.apply_chat_template(CONVERSATION, return_dict=True)["input_ids"] for tokenizer in (parent, child))
    assert child.convert_ids_to_tokens(new) == parent.convert_ids_to_tokens(old)
    rendered = child.apply_chat_template(CONVERSATION, tokenize=False)
    assert rendered == parent.apply_chat_template(CONVERSATION, tokenize=False) == child.decode(new)


def test_words_that_only_a_branch_of_the_template_writes_stay_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    template = (
        tiny.CHAT_TEMPLATE
        + "{% if tools %}{{ 'Ġ' }} abnormality{% else %}{{ raise_exception('no ' + messages[9]['role']) }}{% endif %}"
    )
    (run.parent / "chat_template.jinja").write_text(template)  # refuses every conversation
    tokenizer = checkpoint.load_fast_tokenizer(run.parent)
    write_counts(run.counts, tokenizer, count_tokens(tokenizer, ["heart"]))
    run()
    assert (
        tokenizer.encode(" abnormality").tokens
        == checkpoint.load_fast_tokenizer(run.out).encode(" abnormality").tokens
        == ["Ġabnormality"]
    )


def test_metrics_and_index_map_tell_what_went(tmp_path: Path) -> None:
    run = Run(tmp_path)
    artifacts.write_table(run.parent / "pruned_neurons.parquet", {"layer": [0], "neuron": [3]})
    run()
    assert artifacts.read_table(run.out / "pruned_neurons.parquet", ["neuron"])["neuron"] == [3]
    table = artifacts.read_table(run.out / "pruned_tokens.parquet", ["token_id", "token", "count", "new_id", "reason"])
    assert table["token_id"] == list(range(run.num_tokens))
    assert [new for new in table["new_id"] if new >= 0] == list(range(len(run.kept())))
    assert all((reason is None) == (new < 0) for reason, new in zip(table["reason"], table["new_id"], strict=True))
    assert all((reason == "counted") == (count > 0) for reason, count in zip(table["reason"], table["count"], strict=True))
    metrics = artifacts.read_json(run.metrics)
    assert metrics["tokens_kept"] == {reason: table["reason"].count(reason) for reason in REASONS}
    assert (metrics["vocab_size_before"], metrics["vocab_size_after"]) == (run.num_tokens, len(run.kept()))
    assert metrics["tokens_never_seen"] == table["count"].count(0)
    before, after = checkpoint.sizes(run.parent)["num_parameters"], checkpoint.sizes(run.out)["num_parameters"]
    assert metrics["parameters_removed"] == before - after == (run.num_tokens - len(run.kept())) * 40
    assert metrics["parameters_removed_share"] == pytest.approx(1 - after / before)


def test_a_higher_threshold_keeps_fewer_and_the_same_one_writes_the_same_bytes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run()
    first, files = run.kept(), {path.name: path.read_bytes() for path in run.out.iterdir()}
    run("1e-2")
    assert set(run.kept()) < set(first)
    run()
    assert {path.name: path.read_bytes() for path in run.out.iterdir()} == files


@pytest.mark.parametrize(
    ("threshold", "message"),
    [(-1, "must be ≥ 0 and < 1, got -1.0"), (1, "must be ≥ 0 and < 1"), (0.9, "drops every token"), ("often", "must be a number")],
)
def test_a_bad_threshold_is_refused_and_the_last_checkpoint_stays(tmp_path: Path, threshold: object, message: str) -> None:
    run = Run(tmp_path)
    run()
    before = (run.out / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match=f"embedding_threshold.*{message}"):
        run(threshold)
    assert (run.out / "tokenizer.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_parent_that_cannot_be_trimmed_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.edit("generation_config.json", pad_token_id=386)
    with pytest.raises(UserError, match=r"generation_config\.json: pad_token_id 386 is none of the tokenizer's 386 tokens"):
        run()
    run.edit("generation_config.json", pad_token_id=2)
    definition = json.loads((run.parent / "tokenizer.json").read_text())
    for changes, message in (({"end_of_word_suffix": "</w>"}, "end_of_word_suffix"), ({"dropout": 0.1}, "dropout")):
        run.edit("tokenizer.json", model={**definition["model"], **changes})
        with pytest.raises(UserError, match=rf"tokenizer\.json: its {message} is"):
            run()
    vocab = definition["model"]["vocab"]
    run.edit(
        "tokenizer.json",
        model={
            "type": "WordPiece",
            "vocab": vocab,
            "unk_token": "a",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 9,
        },
    )
    with pytest.raises(UserError, match=r"tokenizer\.json: it is a WordPiece tokenizer, and only BPE"):
        run()
    assert not run.out.exists()


def test_a_template_that_chats_were_rendered_with_ships_where_the_parent_has_none(tmp_path: Path) -> None:
    run, ours, none = Run(tmp_path), tmp_path / "ours.jinja", tmp_path / "none.jinja"
    ours.write_text("{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}")
    none.write_text("")
    run(**{"chat-template": ours})
    assert (run.out / "chat_template.jinja").read_text() == tiny.CHAT_TEMPLATE
    (run.parent / "chat_template.jinja").unlink()
    run(**{"chat-template": none})
    assert not (run.out / "chat_template.jinja").exists()
    run(**{"chat-template": ours})
    assert AutoTokenizer.from_pretrained(run.out).apply_chat_template(CONVERSATION[1:2], tokenize=False) == f"user: {TEXT[0]}"
