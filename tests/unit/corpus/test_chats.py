"""What is asked for in a chat is what the assistant says, to the token, by ten families' templates and through training's rows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from minigpts.corpus.chats import CONTROL, REFUSED, UNCLEAR, Renderer
from minigpts.corpus.readers.chat_rows import Chat, LeftOut
from minigpts.errors import UserError
from minigpts.model import chat_template, checkpoint, packing
from minigpts.model.packing import CONTEXT, IGNORED
from minigpts.training import data
from tests.unit.corpus.chat_templates import FAMILIES, write_parent
from tests.unit.training.test_trainer import RECIPE

SYSTEM = {"role": "system", "content": "Speak of organs."}
TALK = [
    {"role": "user", "content": "What does the heart do?"},
    {"role": "assistant", "content": "It beats: ♥ 心.\n\nAlways."},
    {"role": "user", "content": "And the lung, What does the heart do?"},
    {"role": "assistant", "content": "What does the heart do?"},  # words that stand elsewhere, too
]
CALL = {"type": "function", "function": {"name": "pulse", "arguments": {"of": "heart"}}}
TOOLS = [{"type": "function", "function": {"name": "pulse", "parameters": {"type": "object", "properties": {}}}}]


def scored(folder, text, spans, sequence_length=400):
    """What training asks for of a chat, decoded: each run of neighbouring targets; and the ids of its pieces."""
    tokenizer, config = checkpoint.load_fast_tokenizer(folder), checkpoint.load_config(folder)
    recipe = replace(RECIPE, sequence_length=sequence_length, max_tokens=10**6)
    rows, _ = data.draw_sequences(tokenizer, [text], packing.boundaries(tokenizer, config), recipe, spans=[spans])
    runs = []
    for ids, labels in rows:
        assert ((labels == ids) | (labels == IGNORED) | (labels == CONTEXT)).all()
        for asked, run in itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] >= 0):
            if asked:
                runs.append(tokenizer.decode([int(token) for token, _ in run], skip_special_tokens=False))
    return runs, rows


def rendered(folder, messages, tools=None):
    return Renderer(folder).render(Chat(messages, tools), "chats.jsonl:1")


def expected(family, replies):
    ends = [family.end] * len(replies)
    ends[-1] = ends[-1] or family.eos  # a template that ends no turn leaves it to end of text
    return [f"{family.lead}{reply}{end}" for reply, end in zip(replies, ends, strict=True)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_assistants_tokens_are_the_targets_and_no_others(tmp_path, name):
    family = FAMILIES[name]
    folder = write_parent(tmp_path, family)
    chat = [*([SYSTEM] if family.system else []), *TALK]
    text, spans = rendered(folder, chat)
    replies = [message["content"] for message in chat if message["role"] == "assistant"]
    runs, rows = scored(folder, text, spans)
    assert runs == expected(family, replies)
    ids = rows[0, 0][: int((rows[0, 1] != IGNORED).sum()) + 1].tolist()
    tokenizer = checkpoint.load_fast_tokenizer(folder)
    if family.adds_bos:
        assert ids[0] == tokenizer.token_to_id("<s>") != ids[1]  # the template writes it too, and it stands once
    for token in family.special:  # control tokens, not their spelling
        assert ids[1:-1].count(tokenizer.token_to_id(token)) == text.count(token)


@pytest.mark.parametrize("name", FAMILIES)
def test_thoughts_are_asked_for_where_the_template_keeps_them(tmp_path, name):
    family = FAMILIES[name]
    folder = write_parent(tmp_path, family)
    replies = ["<think>Muscle.</think>It beats.", "<think>Air.</think>It breathes."]
    chat = [*TALK[:1], {"role": "assistant", "content": replies[0]}, *TALK[2:3], {"role": "assistant", "content": replies[1]}]
    text, spans = rendered(folder, chat)
    kept = replies if family.thoughts else ["It beats.", replies[1]]
    assert scored(folder, text, spans)[0] == expected(family, kept)


def test_a_call_of_a_tool_is_the_assistants_and_its_result_is_not(tmp_path):
    folder = write_parent(tmp_path, FAMILIES["tools"])
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    chat = [TALK[0], called, {"role": "tool", "content": "72"}, {"role": "assistant", "content": "72 a minute."}]
    text, spans = rendered(folder, chat, TOOLS)
    call = '<call>{"name": "pulse", "arguments": {"of": "heart"}}</call><|im_end|>'
    assert scored(folder, text, spans)[0] == [call, "72 a minute.<|im_end|>"] and 'Tools: [{"type"' in text


def test_a_call_that_the_template_leaves_out_is_no_empty_reply_to_learn(tmp_path):
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    with pytest.raises(LeftOut, match=UNCLEAR):
        rendered(write_parent(tmp_path, FAMILIES["chatml"]), [TALK[0], called, {"role": "tool", "content": "72"}, TALK[1]])


def test_two_hundred_turns_keep_their_mask_through_the_cuts(tmp_path):
    folder = write_parent(tmp_path, FAMILIES["chatml"])
    chat = [turn for number in range(100) for turn in (TALK[0], {"role": "assistant", "content": f"Reply {number} of many."})]
    text, spans = rendered(folder, chat)
    whole = checkpoint.load_fast_tokenizer(folder).encode(text, add_special_tokens=False)
    asked = [token for token, (first, _) in zip(whole.ids, whole.offsets, strict=True) if any(a <= first < b for a, b in spans)]
    _, rows = scored(folder, text, spans, sequence_length=23)
    found = rows[:, 1][rows[:, 1] >= 0]
    assert sorted(found.tolist()) == sorted(asked) and len(spans) == 100
    pieces = [piece for ids, labels in rows for piece in np.split(labels, np.flatnonzero(labels == IGNORED))]
    assert all((piece >= 0).any() for piece in pieces if len(piece) > 1)  # a piece that asks for nothing isn't read


def test_a_parent_without_a_template_gets_a_plain_one_that_ships(tmp_path):
    folder = write_parent(tmp_path, None)
    renderer = Renderer(folder)
    assert renderer.shipped() == ""
    text, spans = renderer.render(Chat([SYSTEM, *TALK], None), "chats.jsonl:1")
    assert scored(folder, text, spans)[0] == [f" {message['content']}</s>" for message in TALK[1::2]]
    assert text.startswith("System: Speak of organs.\n\nUser: What does the heart do?\n\nAssistant: It beats")
    (folder / "chat_template.jinja").write_text(renderer.shipped())
    assert rendered(folder, [SYSTEM, *TALK]) == (text, spans)


@pytest.mark.parametrize(
    ("name", "chat", "reason"),
    [
        ("gemma", [TALK[0], *TALK], REFUSED),
        ("llama 2", TALK[1:], REFUSED),
        ("chatml", [{"role": "user", "content": "Say <|im_end|>!"}, TALK[1]], CONTROL),
        ("chatml", [TALK[0], {"role": "assistant", "content": "<|im_start|>system"}], CONTROL),
    ],
)
def test_a_chat_that_would_be_read_otherwise_than_it_is_meant_is_left_out(tmp_path, name, chat, reason):
    with pytest.raises(LeftOut, match=reason):
        rendered(write_parent(tmp_path, FAMILIES[name]), chat)


@pytest.mark.parametrize(
    "written",
    [
        "{{ m.content | upper }}",
        "{{ m.content[:3] if m.role == 'user' else '' }}",
        "{{ m.content[4:] if loop.index == 2 else '.' }}",
    ],
)
def test_a_shifted_or_empty_mask_is_refused(tmp_path, written):
    template = "{% for m in messages %}" + written + "</s>{% endfor %}"
    with pytest.raises(LeftOut, match=UNCLEAR):
        rendered(write_parent(tmp_path, replace(FAMILIES["alpaca"], template=template)), TALK)


def test_a_template_that_goes_on_and_on_for_some_chats_stops_the_reading_of_them_in_one_line(tmp_path, monkeypatch):
    """It is no refusal: ten seconds for each of a million chats would be no end."""
    monkeypatch.setattr(chat_template, "SECONDS", 0.05)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    family = replace(next(iter(FAMILIES.values())), template="{% if 'heart' in messages[0].content %}" + loop + "{% endif %}")
    folder = write_parent(tmp_path, family)
    with pytest.raises(LeftOut):
        rendered(folder, [{"role": "user", "content": "The lung?"}, TALK[1]])
    with pytest.raises(UserError, match=rf"^{folder}/chat_template\.jinja: the chat template takes more than 0\.05 seconds$"):
        rendered(folder, TALK)
