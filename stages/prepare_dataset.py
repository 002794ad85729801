"""Build or read the domain's text, split it so that nothing leaks, and write text, questions and what the checks found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import artifacts, params
from minigpts.corpus.document import Corpus
from minigpts.corpus.settings import Settings
from minigpts.errors import UserError, exit_cleanly

if TYPE_CHECKING:
    from minigpts.corpus.readers.text_files import Render

Take = Callable[[Corpus, Settings], tuple[Corpus, Settings]]

FLAGS = {
    "out": "folder for the five parquet files, mcq.jsonl, keep_terms.json, chat_template.jinja",
    "metrics": "JSON file for counts, sizes and the leak check",
}
OPTIONAL = {"model": "the parent's checkpoint folder, read only where the text holds chats: its template renders them"}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    run(argv, lambda corpus, settings: (corpus, settings))


def run(argv: Sequence[str] | None, take: Take) -> None:
    """Read the corpus, prepare it, write the four tables, the general text, the questions, what the child needs and the metrics.

    ``take`` says how much of the corpus, and split how; the rehearsal takes its beginning.
    """
    args = params.flags(argv, __doc__, FLAGS, OPTIONAL)
    settings = params.read(args.params, Settings, "dataset")

    from minigpts.corpus import chats, general_text
    from minigpts.corpus.prepare import prepare
    from minigpts.corpus.readers.term_lists import read_terms

    terms = [] if settings.keep_terms is None else read_terms(Path(settings.keep_terms))
    general = general_text.read(settings.general_text)
    renderer, scratch = chats.Renderer(args.model), args.out / ".documents.parquet"
    try:
        prepared = prepare(*take(_corpus(settings, renderer.render), settings), scratch, renderer.render)
        metrics = prepared.metrics | general_text.write(general, args.out / "general.parquet")
        prepared.write(args.out)
    finally:
        scratch.unlink(missing_ok=True)
    artifacts.write_json(args.out / "keep_terms.json", terms)
    with artifacts.replacing(args.out / "chat_template.jinja") as temporary:
        temporary.write_text(renderer.shipped(), encoding="utf-8", newline="\n")
    artifacts.write_json(args.metrics, metrics)
    print(prepared.summary())


def _corpus(settings: Settings, render: Render) -> Corpus:
    from minigpts.corpus.domains.registry import DOMAINS
    from minigpts.corpus.readers import folders, question_files, text_files

    if settings.source is not None:
        columns = text_files.Columns(settings.text_column, settings.template_text, settings.group_column)
        corpus = text_files.read_corpus(Path(settings.source), columns, render=render)
    elif settings.domain in DOMAINS:
        corpus = DOMAINS[settings.domain]()
    else:
        raise UserError(f"params.yaml: dataset.domain must be one of {', '.join(DOMAINS)}, got {settings.domain!r}")
    if settings.questions is None:
        return corpus
    path, dropped = Path(settings.questions), Counter[str]()
    questions = question_files.read_questions(path, dropped)
    sources = {**corpus.sources, "questions": {"name": path.name, "sha256": folders.digest([path])}}
    return Corpus(corpus.documents, questions, sources, dropped)


if __name__ == "__main__":
    exit_cleanly(main)
