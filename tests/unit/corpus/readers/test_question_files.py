"""Questions from local files and rows: what is read, what is left out and counted, and what the complaints say."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import pytest

from minigpts.corpus.readers import question_files as source
from minigpts.corpus.readers import question_rows
from minigpts.errors import UserError

GOOD = {"question": "Which?", "choices": ["a", "b"], "answer": 0}


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(*rows: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def papers(context: str, *items: tuple[str, list[str], object]) -> str:
    """The layout of the paper's own files; by hand, since a key may come twice."""
    pairs = ", ".join(f"{json.dumps(q)}: {json.dumps({'choices': choices, 'answer': answer})}" for q, choices, answer in items)
    return f'{{"context": {json.dumps(context)}, "questions": {{{pairs}}}}}'


def read(path: Path) -> tuple[list[tuple[str, tuple[str, ...], int]], dict[str, int]]:
    dropped: Counter[str] = Counter()
    found = source.read_questions(path, dropped)
    return [(item.question, item.choices, item.answer) for item in found], dict(dropped)


def test_a_missing_file_names_the_param(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.questions"):
        source.read_questions(tmp_path / "nowhere.jsonl", Counter())


def test_a_file_of_another_kind_or_without_a_question_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"q\.xlsx: .*use \.csv, \.json, \.jsonl"):
        source.read_questions(write(tmp_path, "q.xlsx", "x"), Counter())
    for name, content in (("q.jsonl", "\n"), ("q.csv", ""), ("q.json", papers("A test"))):
        with pytest.raises(UserError, match="holds no question"):
            source.read_questions(write(tmp_path, name, content), Counter())


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz"])
def test_answers_in_jsonl_are_an_index_a_choice_or_a_letter(tmp_path, name):
    rows = [{"question": f" Which {answer}? ", "choices": ["a", " b "], "answer": answer} for answer in (1, "b", 0, "A")]
    questions = source.read_questions(write(tmp_path, name, jsonl(*rows)), Counter())
    assert [question.answer for question in questions] == [1, 1, 0, 0]
    assert questions[0].question == "Which 1?" and questions[0].choices == ("a", "b") and questions[0].group is None
    assert [question.id for question in questions] == [f"{name}:{line}" for line in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 2}, "'answer' must be one of the choices, its letter from A to B or its index from 0 to 1, got 2"),
        ({"answer": -1}, "got -1"),
        ({"answer": True}, "got True"),
        ({"answer": None}, "got None"),
        ({"answer": "c"}, "got 'c'"),
        ({"answer": "C"}, "got 'C'"),
        ({"answer": "1"}, "got '1'"),
        ({"choices": ["B", "A"], "answer": "A"}, "'A' is the place of one choice and the text of another"),
        ({"choices": []}, "'choices' must be at least two texts"),
        ({"choices": ["a"]}, "'choices' must be at least two texts"),
        ({"choices": "ab"}, "'choices' must be at least two texts"),
        ({"choices": ["a", None]}, "'choices' must be at least two texts"),
        ({"choices": ["a", " ", "c"]}, "choice 2 of 'choices' is empty"),
        ({"choices": ["a", "b", "a "]}, "'choices' must differ from one another, got 'a' twice"),
        ({"question": " "}, "'question' must be text"),
        ({"question": None}, "'question' must be text"),
    ],
)
def test_a_question_without_a_valid_answer_is_named_by_its_line(tmp_path, change, message):
    path = write(tmp_path, "q.jsonl", f"{json.dumps(GOOD)}\n\n{json.dumps({**GOOD, **change})}\n")
    with pytest.raises(UserError, match=r"q\.jsonl:3: ") as caught:
        source.read_questions(path, Counter())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_no_tokenizer_should_see_goes_and_is_counted(tmp_path):
    broken = {"question": "Which\ud83d?\u0000", "choices": ["a\ud83d", "b"], "answer": "a\ud83d"}
    found, dropped = read(write(tmp_path, "q.jsonl", jsonl(broken)))
    assert found == [("Which?", ("a", "b"), 0)] and dropped == {"control characters": 3}
    with pytest.raises(UserError, match="'question' must be text"):
        source.read_questions(write(tmp_path, "e.jsonl", jsonl({**GOOD, "question": "\u0000"})), Counter())


def test_the_later_of_two_equal_questions_is_dropped_and_counted(tmp_path):
    again = {"question": "Which? ", "choices": ["b", "a"], "answer": "a"}  # the same choices in another order
    other = {"question": "Which?", "choices": ["a", "c"], "answer": 0}  # another question, worded the same
    found, dropped = read(write(tmp_path, "q.jsonl", jsonl(GOOD, other, again)))
    assert found == [("Which?", ("a", "b"), 0), ("Which?", ("a", "c"), 0)]
    assert dropped == {"duplicate questions": 1}


def test_mmlu_csv_has_no_header_and_letters(tmp_path):
    rows = [
        ["Add 1 and 1, then\nsay it.", "1", "2", "3", "4", "B"],
        ["The third of these?", "C", "A", "B", "D", "C"],  # a letter, whatever the choices say
        ['"So", he said', "x, y", "y", "z", "w", "A"],
    ]
    path = write(tmp_path, "dev.csv", table(*rows))
    found, _ = read(path)
    assert found == [(row[0], tuple(row[1:5]), "ABCD".index(row[5])) for row in rows]
    assert [item.id for item in source.read_questions(path, Counter())] == ["dev.csv:1", "dev.csv:3", "dev.csv:4"]


def test_five_choices_among_four_are_kept(tmp_path):
    five = ["Five?", "a", "b", "c", "d", "e", "E"]
    four = ["Four?", "a", "b", "c", "d", "", "D"]
    found, _ = read(write(tmp_path, "q.csv", table(five, four)))
    assert [(len(choices), answer) for _, choices, answer in found] == [(5, 4), (4, 3)]
    rows = [{"question": q, "choices": [c for c in choices if c], "answer": answer} for q, *choices, answer in (five, four)]
    assert read(write(tmp_path, "q.jsonl", jsonl(*rows)))[0] == found


@pytest.mark.parametrize("answer", ["yes", "B", "1"])
def test_csv_with_a_header_in_any_order_with_other_columns(tmp_path, answer):
    rows = [["Subject", "Answer", "B", "A", "Question"], ["s", answer, "yes", "no", "Well?"]]
    assert read(write(tmp_path, "q.csv", table(*rows)))[0] == [("Well?", ("no", "yes"), 1)]


QUESTIONS = [("Which organ beats?", ("heart", "lung", "nail", "hair"), 0), ("Which breathes?", ("eye", "lung", "ear", "toe"), 1)]
# How each data set's own files put the two questions: a file's name, its content, the columns that are not used
LAYOUTS = {
    "medmcqa": (
        "q.csv",
        table(
            ["id", "question", "opa", "opb", "opc", "opd", "cop", "choice_type", "exp", "topic_name"],
            *([n, q, *choices, answer, "single", "because", ""] for n, (q, choices, answer) in enumerate(QUESTIONS)),
        ),
        "id, choice_type, exp, topic_name",
    ),
    "medmcqa's own files, which count from 1": (
        "q.jsonl",
        jsonl(
            *(
                {"question": q, **dict(zip(("opa", "opb", "opc", "opd"), choices, strict=True)), "cop": answer + 1}
                for q, choices, answer in [*QUESTIONS, ("Last?", ("a", "b", "c", "d"), 3)]
            )
        ),
        "",
    ),
    "renamed": (
        "q.csv",
        table(
            ["id", "question", "A", "B", "C", "D", "answer", "choice_type", "option notes", "n_choices"],
            *([n, q, *choices, "ABCD"[answer], "single", "", 4] for n, (q, choices, answer) in enumerate(QUESTIONS)),
        ),
        "id, choice_type, option notes, n_choices",
    ),
    "kaggle's science exam": (
        "q.csv",
        table(
            ["", "id", "prompt", "A", "B", "C", "D", "answer"],
            *([n, n, q, *choices, "ABCD"[answer]] for n, (q, choices, answer) in enumerate(QUESTIONS)),
        ),
        "id",
    ),
    "mmlu without a header, numbered": (
        "q.csv",
        table(*([n, q, *choices, "ABCD"[answer]] for n, (q, choices, answer) in enumerate(QUESTIONS))),
        "",
    ),
    "mmlu's older edition": (
        "q.csv",
        table(["input", *"DCBA", "target"], *([q, *choices[::-1], "ABCD"[answer]] for q, choices, answer in QUESTIONS)),
        "",
    ),
    "a list in a cell": (
        "q.csv",
        table(["question", "subject", "choices", "answer"], *([q, "s", list(choices), answer] for q, choices, answer in QUESTIONS)),
        "subject",
    ),
    "race": (
        "q.jsonl",
        jsonl(*({"article": "…", "question": q, "options": choices, "answer": "ABCD"[n]} for q, choices, n in QUESTIONS)),
        "article",
    ),
    "arc on the hub": (
        "q.jsonl",
        jsonl(
            *(
                {"id": "x", "question": q, "choices": {"text": choices, "label": ["1", "2", "3", "4"]}, "answerKey": str(n + 1)}
                for q, choices, n in QUESTIONS
            )
        ),
        "id",
    ),
    "arc's own files": (
        "q.jsonl",
        jsonl(
            *(
                {
                    "question": {"stem": q, "choices": [{"text": c, "label": "ABCD"[i]} for i, c in enumerate(choices)]},
                    "answerKey": "ABCD"[n],
                }
                for q, choices, n in QUESTIONS
            )
        ),
        "",
    ),
    "medqa": (
        "q.jsonl",
        jsonl(
            *(
                {"question": q, "options": dict(zip("ABCD", choices, strict=True)), "answer": choices[n], "answer_idx": "ABCD"[n]}
                for q, choices, n in QUESTIONS
            )
        ),
        "answer_idx",
    ),
    "numbered from 1": (
        "q.csv",
        table(
            ["Question", *(f"Option {n}" for n in (1, 2, 3, 4)), "Correct Answer"],
            *([q, *choices, answer + 1] for q, choices, answer in [*QUESTIONS, ("Last?", ("a", "b", "c", "d"), 3)]),
        ),
        "",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layouts_of_known_data_sets_give_the_same_questions(tmp_path, capsys, name):
    file, content, unused = LAYOUTS[name]
    path = write(tmp_path, file, content)
    assert read(path)[0][:2] == QUESTIONS
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if "not used" in line] == ([f"{path}: columns not used: {unused}"] if unused else [])


def test_sciqs_right_answer_is_one_of_the_choices(tmp_path):
    header = ["question", "distractor3", "distractor1", "distractor2", "correct_answer", "support"]
    path = write(tmp_path, "q.csv", table(header, ["Which beats?", "nail", "lung", "eye", "heart", "It does."]))
    assert read(path)[0] == [("Which beats?", ("heart", "lung", "eye", "nail"), 0)]


def test_where_answers_count_from_is_told_by_the_whole_file_or_asked(tmp_path, capsys):
    header = ["question", "option1", "option2", "option3", "answer"]
    rows = [[f"Q{n}?", "a", "b", "c", n] for n in (1, 2, 3)]
    assert [answer for _, _, answer in read(write(tmp_path, "one.csv", table(header, *rows)))[0]] == [0, 1, 2]
    assert "one.csv: the answers count the choices from 1" in capsys.readouterr().err
    rows = [[f"Q{n}?", "a", "b", "c", n] for n in (0, 1, 2)]
    assert [answer for _, _, answer in read(write(tmp_path, "zero.csv", table(header, *rows)))[0]] == [0, 1, 2]
    with pytest.raises(UserError, match=r"open\.csv: can't tell whether its answers count the choices from 0 or from 1"):
        read(write(tmp_path, "open.csv", table(header, *rows[1:])))
    texts = [["How many?", "2", "4", "8", "8"], ["How few?", "a", "b", "c", "B"]]
    assert [answer for _, _, answer in read(write(tmp_path, "texts.csv", table(header, *texts)))[0]] == [2, 1]


def test_pandas_floats_and_missing_cells_in_questions(tmp_path):
    rows = [{**GOOD, "answer": 1.0}, {"question": "Which one?", "choices": ["a", "b", float("nan"), None], "answer": "A"}]
    found, dropped = read(write(tmp_path, "q.jsonl", jsonl(*rows)))
    assert found == [("Which?", ("a", "b"), 1), ("Which one?", ("a", "b"), 0)] and dropped == {"missing choices": 2}
    header = ["question", "A", "B", "C", "answer"]
    found, dropped = read(write(tmp_path, "q.csv", table(header, ["Which?", "a", "None", "nan", "B"])))
    assert found == [("Which?", ("a", "None"), 1)] and dropped == {"missing choices": 1}
    for column, message in ((0, "'question' must be text"), (1, "choice 1 of 'choices' is empty"), (4, "'answer' must be one")):
        row = ["Which?", "a", "b", "c", "A"]
        row[column] = "nan"
        with pytest.raises(UserError, match=message):
            read(write(tmp_path, "q.csv", table(header, row)))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["id", "prompt", *"ABCDE"], "columns found: id, prompt, A, B, C, D, E; missing: answer (answer, answerkey"),
        (["id", "text", *"ABCD", "answer"], "columns found: id, text, A, B, C, D, answer; missing: question (question, prompt"),
        (["question", "answer", "note"], "missing: choices (A, B … or option 1, option 2 …)"),
        (["frage", "antwort", "x", "y", "z"], "missing: question (question, prompt"),
        (["prompt", "stem", "A", "B", "answer"], "'prompt' and 'stem' may both be the question; rename one of them"),
        (["question", "A", "B", "D", "answer"], "no choice between the columns 'B' and 'D'; rename what is none"),
        (["question", "A", "B", "option_1", "option_2", "answer"], "more than one set of choices"),
        (["question", "A", "A", "B", "answer"], "two columns are named 'A'; rename one of them"),
        (["question", "option_1", "option 1", "option_2", "answer"], "'option_1' and 'option 1' name the same choice"),
    ],
)
def test_a_header_that_is_not_understood_is_refused_by_its_columns_and_never_a_question(tmp_path, header, message):
    path = write(tmp_path, "q.csv", table(header, *([f"cell {n}"] * (len(header) - 1) + ["A"] for n in range(3))))
    with pytest.raises(UserError, match=r"q\.csv:1: ") as caught:
        read(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_that_a_file_has_no_header_is_said(tmp_path, capsys):
    path = write(tmp_path, "q.csv", table(["Which is a part of a plant?", "stem", "nail", "A"], ["Which?", "a", "b", "B"]))
    assert read(path)[0] == [("Which is a part of a plant?", ("stem", "nail"), 0), ("Which?", ("a", "b"), 1)]
    assert capsys.readouterr().err == f"{path}: no header; read as question, choices, the answer's letter\n"


def test_two_keys_of_one_name_are_refused(tmp_path):
    row = '{"question": "Which?", "choices": ["a", "b"], "answer": 0, "answer": 1}'
    with pytest.raises(UserError, match=r"q\.jsonl:1: two keys are named 'answer'"):
        read(write(tmp_path, "q.jsonl", row))
    item = '{"choices": ["a", "b"], "answer": 0, "answer": 1}'
    with pytest.raises(UserError, match=r"q\.json: question 1: two keys are named 'answer'"):
        read(write(tmp_path, "q.json", f'{{"context": "", "questions": {{"Which?": {item}}}}}'))
    with pytest.raises(UserError, match=r"q\.json: two keys are named 'questions'"):
        read(write(tmp_path, "q.json", '{"questions": {"Which?": {}}, "questions": {}}'))
    with pytest.raises(UserError, match=r"q\.jsonl:1: columns found: question, choices; missing: answer"):
        read(write(tmp_path, "q.jsonl", '{"question": "Which?", "choices": ["a", "b"]}'))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["Q?", "a", "b", "c", "d", "E"], "'answer' must be one of the choices, its letter from A to D"),
        (["Q?", "a", "b", "", "d", "A"], "choice 3 of 'choices' is empty"),
        (["Q?", "a", "b", "c", "", "D"], "letter from A to C"),
        (["Q?", "a", "b", "A"], "has 4 columns, the first line 6"),
    ],
)
def test_a_bad_csv_row_is_named_by_its_line(tmp_path, row, message):
    good = ["Two\nlines?", "a", "b", "c", "d", "A"]
    with pytest.raises(UserError, match=r"q\.csv:3: ") as caught:
        source.read_questions(write(tmp_path, "q.csv", table(good, row)), Counter())
    assert message in str(caught.value)


def test_a_csv_number_that_is_both_a_choice_and_an_index_is_refused(tmp_path):
    rows = [["question", "A", "B", "C", "answer"], ["How many?", "2", "1", "0", "1"], ["How many?", "2", "1", "0", "0"]]
    with pytest.raises(UserError, match=r"q\.csv:3: 'answer' '0' is the place of one choice and the text of another"):
        source.read_questions(write(tmp_path, "q.csv", table(*rows)), Counter())


def test_csv_that_is_no_table_of_questions(tmp_path):
    with pytest.raises(UserError, match=r"q\.csv:1: columns found: question, answer; missing: choices .* or give MMLU's layout"):
        source.read_questions(write(tmp_path, "q.csv", table(["question", "answer"], ["Q?", "A"])), Counter())
    with pytest.raises(UserError, match=r"q\.csv:2: not valid CSV from here on"):
        source.read_questions(write(tmp_path, "q.csv", table(["Q?", "a", "b", "A"]) + '"R?,a,b,B\nS?,a,b,A\n'), Counter())


def test_the_papers_layout_puts_its_context_above_each_question(tmp_path):
    items = [
        ("Sums are called", ["few.", "sums. "], 1),
        ("Left", ["over.", " "], 0),  # as in the paper's own file
        ("Five?", ["a", "b", "c", "d", "e"], 4),
        ("Sums are called", ["sums.", "few."], 0),
        ("Sums are called", ["totals.", "few."], 0),
    ]
    path = write(tmp_path, "q.json", papers("A test:", *items))
    dropped: Counter[str] = Counter()
    first, five, third = source.read_questions(path, dropped)
    assert (first.question, first.choices, first.answer) == ("A test:\nSums are called", ("few.", "sums."), 1)
    assert first.evidence == "Sums are called"  # the context is in every prompt, and gives nothing away
    assert (len(five.choices), five.answer) == (5, 4)
    assert third.choices == ("totals.", "few.")  # a key that JSON readers would have overwritten
    assert dropped == {"questions with an empty choice": 1, "duplicate questions": 1}


def test_an_array_of_questions_is_read_as_lines_of_them_are(tmp_path):
    rows = [GOOD, {"question": "Where?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}]
    array = read(write(tmp_path, "q.json", json.dumps(rows, indent=1)))
    assert array == read(write(tmp_path, "q.jsonl", jsonl(*rows))) and len(array[0]) == 2


def test_bad_items_of_the_papers_layout_are_named_by_their_number(tmp_path):
    path = write(tmp_path, "q.json", papers("", ("One?", ["a", "b"], 1), ("Two?", ["a", "b"], 2)))
    with pytest.raises(UserError, match=r"q\.json: question 2: 'answer' must be .* got 2"):
        source.read_questions(path, Counter())
    for content, message in (
        (jsonl(GOOD, GOOD), r"q\.json:2: not valid JSON .*belong in \.jsonl"),
        (jsonl(GOOD), "not in the paper's layout"),
        ("[1]", r"q\.json: row 1: not a JSON object"),
        (json.dumps([GOOD, {**GOOD, "answer": 2}]), r"q\.json: row 2: 'answer' must be .* got 2"),
        (json.dumps([{"stem": "Which?"}]), r"q\.json: row 1: "),
        ('{"questions": {"One?": 3}}', r"question 1: 'choices' must be at least two texts, got None"),
        ("[" * 100_000, "not JSON that can be read"),
    ):
        with pytest.raises(UserError, match=message):
            source.read_questions(write(tmp_path, "q.json", content), Counter())


def test_rows_of_a_hub_data_set_by_a_mapping():
    listed = [("set: row 1", {"stem": "Which?", "options": ["a", "b"], "label": 1, "more": None})]
    (question,) = question_rows.from_rows(listed, {"question": "stem", "choices": "options", "answer": "label"}, Counter())
    assert (question.id, question.choices, question.answer) == ("set: row 1", ("a", "b"), 1)
    apart = [
        ("set: row 1", {"q": "Which?", "opa": "a", "opb": "b", "opc": None, "key": "B"}),
        ("set: row 2", {"q": "Which?", "opa": "b", "opb": "a", "opc": None, "key": "b"}),
        ("set: row 3", {"q": "Which?", "opa": "b", "opb": "a", "opc": "c", "key": "C"}),
    ]
    dropped: Counter[str] = Counter()
    mapping = {"question": "q", "choices": ["opa", "opb", "opc"], "answer": "key"}
    found = question_rows.from_rows(apart, mapping, dropped)
    assert [(item.choices, item.answer) for item in found] == [(("a", "b"), 1), (("b", "a", "c"), 2)]
    assert dropped == {"duplicate questions": 1, "missing choices": 2}
    with pytest.raises(UserError, match=r"set: row 1: no column 'opd'; there is q, opa"):
        question_rows.from_rows(apart, {**mapping, "choices": ["opa", "opd"]}, Counter())
    with pytest.raises(UserError, match=r"set: row 2: choice 1 of 'choices' is empty"):
        question_rows.from_rows([apart[0], ("set: row 2", {**apart[0][1], "opa": ""})], mapping, Counter())
