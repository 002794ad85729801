import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from minigpts.reporting import figures, page
from minigpts.reporting.captions import flatten, short, size
from tests.unit.reporting.run_files import metrics

HOSTILE = "</td></table><script>alert(1)</script><img src=https://example.org/x onerror=alert(1)> \"'&\n{{ 7 * 7 }}"


class Document(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def reply(text: str, name: str, **changes: Any) -> dict[str, Any]:
    return {"prompt": text, "asks": True, "reply": f"{text} {name}", "ended": True, "empty": False, "loops": False, **changes}


def run(text: str = "plain", **changes: Any) -> page.Run:
    files = {**metrics(), **changes}
    files["dataset"] = {**files["dataset"], "sources": {text: {"name": text, "acknowledgement": text}}, text: text}
    picture = figures.layer_widths([48, 48], [77, 77])
    return page.Run(
        metrics=files,
        parameters={"threshold": 0.1, text: text},
        pictures=[figures.Picture(picture.name, picture.title, text, text, picture.draw)],
        spoken={name: {"domain": [reply(text, name)]} for name in page.EVALUATIONS},
        dropped=page.Dropped([text], {text: 3}),
    )


def test_what_comes_from_data_is_text_and_nothing_else() -> None:
    plain, hostile = Document(page.render(run())), Document(page.render(run(HOSTILE)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert not hostile.all("script")
    assert "<script>alert(1)</script>" in hostile.text
    assert "{{ 7 * 7 }}" in hostile.text
    assert hostile.all("img")[0]["alt"] == HOSTILE


def test_chats_show_what_is_asked_for_as_marked_text() -> None:
    text = "User: <b>?</b>\n\nAssistant: It beats.</s>\n\nUser: more"
    said = [text.index(" It beats"), text.index("\n\nUser: more")]
    dataset = {**metrics()["dataset"], "chats": {"read": 9, "examples": [{"text": text, "loss_spans": [said]}]}}
    html = page.render(run(dataset=dataset))
    assert "User: &lt;b&gt;?&lt;/b&gt;\n\nAssistant:<mark> It beats.&lt;/s&gt;</mark>\n\nUser: more</blockquote>" in html
    assert "chats.read" in html and "chats.examples" not in html and "<mark>" not in page.render(run())


def test_nothing_is_fetched() -> None:
    document = Document(page.render(run(HOSTILE)))
    names = {"src", "srcset", "href", "poster", "data", "action", "background"}
    links = [(tag, value) for tag, attributes in document.tags for name, value in attributes.items() if name in names]
    fetched = [value for tag, value in links if tag != "a" and value is not None and not value.startswith("data:image/png;base64,")]
    assert fetched == []
    assert [value for tag, value in links if tag == "a"] == ["https://arxiv.org/abs/2312.12682"]
    assert {"link", "script", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in document.tags)
    html = page.render(run())
    assert "url(" not in html
    assert "@import" not in html


def test_a_reader_who_cannot_see_it_is_served() -> None:
    document = Document(page.render(run()))
    assert document.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in document.all("img"))
    tables = len(document.all("table"))
    assert tables == len(document.all("caption")) > 0
    assert all(header.get("scope") in ("col", "row") for header in document.all("th"))
    ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {section["aria-labelledby"] for section in document.all("section")} <= set(ids)


def test_same_input_same_bytes() -> None:
    assert page.render(run()) == page.render(run())


def test_a_fallen_accuracy_is_said_at_the_top() -> None:
    text = " ".join(Document(page.render(run(tuned_parent={}))).text.split())
    assert "Accuracy: −6.0 points against the untouched parent (50.0% → 44.0%); one standard error is 2.0." in text


def test_the_tuned_parent_has_a_column_where_it_was_tuned() -> None:
    with_it, without = (Document(page.render(run(**changes))).text for changes in ({}, {"tuned_parent": {}}))
    assert "Parent, tuned parent, pruned, tuned, file" in with_it
    assert "Parent, pruned, tuned, file" in without
    assert "tuned parent" not in without


def test_headlines_and_verdict_are_the_files_where_there_is_one() -> None:
    pages = {}
    for name, changes in {"file": {}, "checkpoint": {"export": {}, "exported": {}}}.items():
        pages[name] = " ".join(Document(page.render(run(tuned_parent={}, **changes))).text.split())
    assert "80.0% fewer bytes than the parent (2.0 MB → 0.4 MB)" in pages["file"]
    assert "(1.000 → 0.920)" in pages["file"]
    assert "−6.0 points" in pages["file"]
    assert (
        "token embedding and lm_head: Q5_0; what reads the MLP neurons: IQ4_NL, F16. That is 5.61 bits per weight, 0.4 MB"
        in pages["file"]
    )
    assert "mlp_out: F16 for IQ4_NL, whose blocks don't divide rows of 77 (1 weights)" in pages["file"]
    assert "of the exported file, read back (file): that is the child." in pages["file"]
    assert "Parent, pruned, tuned The same measurements" in pages["checkpoint"]
    assert "(1.000 → 0.900)" in pages["checkpoint"]
    assert "bits per weight" not in pages["checkpoint"]
    assert "file): that" not in pages["checkpoint"]


def test_heads_and_layers_are_named_where_they_went() -> None:
    cut = metrics()["prune_neurons"] | {"num_removed_layers": 2, "num_removed_key_value_heads": 1}
    text, without = (Document(page.render(run(**changes))).text for changes in ({"prune_neurons": cut}, {}))
    assert "Whole layers cut, their neurons among these: 2." in text
    assert "lost 1 of its key/value heads" in text
    assert "layers cut" not in without
    assert "key/value" not in without


def test_the_worst_replies_are_open_and_the_rest_folded() -> None:
    """By the file's: two that say nothing, then two loops, then one without an end. The others keep their order."""
    flaws = {3: {"empty": True}, 9: {"empty": True}, 5: {"loops": True}, 7: {"loops": True}, 2: {"ended": False}}
    spoken = {
        name: {"domain": [reply(f"prompt {row}.", name, **(flaws.get(row, {}) if name == "exported" else {})) for row in range(10)]}
        for name in page.EVALUATIONS
    }
    html = page.render(replace(run(), spoken=spoken))
    text = Document(html).text
    assert re.findall(r"“prompt (\d)\.”", text) == list("3957201468")
    folded = Document(re.findall(r"<details>.*?</details>", html, re.DOTALL)[0]).text
    assert "The other 4 prompts" in folded
    assert re.findall(r"“prompt (\d)\.”", folded) == list("1468")
    assert [text.count(flaw) for flaw in ("(empty)", "(loops)")] == [2, 2]
    assert all(f"prompt 4. {name}" in folded for name in page.EVALUATIONS)


def test_speech_has_a_column_for_each_model_that_spoke_and_no_section_where_none_did() -> None:
    def without(*names: str) -> str:
        silent = {name: {key: value for key, value in metrics()[name].items() if key != "speech"} for name in names}
        whole = run(**silent)
        spoken = {name: {} if name in names else said for name, said in whole.spoken.items()}
        return Document(page.render(replace(whole, spoken=spoken))).text

    words = "".join(without("tuned_parent").split())
    assert "numberparentprunedtunedfileemptyreplies,domain0.0%0.0%0.0%0.0%replies" in words
    assert "instructionskept50.0%50.0%50.0%50.0%What" in words
    silent = without(*page.EVALUATIONS)
    assert "How it speaks" not in silent
    assert "Whether it answers when asked" in silent


def test_what_was_not_measured_is_shown_as_such() -> None:
    def without(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if "acc" not in key}

    files, measured = metrics(), ("base", "pruned", "finetuned", "exported")
    text = Document(page.render(run(**{name: without(files[name]) for name in measured}, finetune={}))).text
    assert "Accuracy: Not measured" in text
    assert "not measured" in text.split("Parent, tuned parent, pruned, tuned, file")[0]


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999"), (134_515_008, "134.5\u00a0M"), (1500, "1.5\u00a0k"), (2.7e9, "2.7\u00a0B")]
)
def test_short_counts(value: float, text: str) -> None:
    assert short(value) == text


def test_sizes_are_decimal_megabytes() -> None:
    assert size(269_060_552) == "269.1\u00a0MB"


def test_flatten_names_every_leaf() -> None:
    values = {"b": {"y": 0.5, "x": None}, "a": [True, 12_345], "c": "text"}
    assert flatten(values) == [("a.0", "yes"), ("a.1", "12,345"), ("b.x", "–"), ("b.y", "0.5"), ("c", "text")]
    assert flatten({"words": ["a (2)", "b (1)"]}) == [("words", "a (2), b (1)")]  # as one, not a row a word


def test_the_leak_check_says_what_was_found_dropped_and_left() -> None:
    rows = dict(page._leaks(metrics()["dataset"]["leak_check"]))
    assert rows == {"train": ["7", "5", ""], "test questions": ["", "1", "1.2%"]}
    assert "test questions" in Document(page.render(run())).text
