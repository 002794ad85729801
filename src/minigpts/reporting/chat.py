"""A chat with the child in the terminal, streamed as it is written: ``make chat``, or ``make chat PARENT=1`` with the parent too.

The child is the exported file, or its checkpoint where none was exported. Type a message and press Enter. ``/new`` starts a new
conversation, ``/quit`` or Ctrl-D ends. What is piped in is answered line by line. A model without a chat template goes on from what
you type.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts.errors import UserError, exit_cleanly, shown
from minigpts.gguf_layout import read_back
from minigpts.model import checkpoint, packing
from minigpts.model.weights import WEIGHTS
from minigpts.reporting.captions import size

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

CHECKPOINT, EXPORTED = Path("data/checkpoints/finetuned"), Path("data/export")
EMPTY = "(an empty reply: the model ended it at once)"


@dataclass
class Speaker:
    """A model that answers, and its side of the conversation."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    temperature: float  # 0: always the most probable token
    turns: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def load(cls, name: str, directory: Path, max_new_tokens: int, temperature: float, exported: Path | None = None) -> Speaker:
        """The speaker of a checkpoint folder, on the GPU in bf16 where there is one, else in fp32. Raises UserError for none.

        Its weights are those of the file in the folder ``exported``, where one is given.
        """
        import torch

        _require(directory)
        load = checkpoint.load_model if exported is None else partial(read_back.load_model, exported)
        on_gpu = torch.cuda.is_available()
        model = load(directory, torch.bfloat16 if on_gpu else torch.float32).to("cuda" if on_gpu else "cpu")
        return cls(name, model, checkpoint.load_tokenizer(directory), max_new_tokens, temperature)

    def answer(self, message: str) -> str:
        """Stream the reply to ``message`` to stdout and return it. The oldest turns are dropped where the context is full."""
        import torch

        self.turns.append({"role": "user", "content": message})
        ids = self._prompt()
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature > 0 else {"do_sample": False}
        print(f"{self.name}: ", end="", flush=True)
        with torch.inference_mode():
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id or 0,  # one sequence: never used
                streamer=_streamer(self.tokenizer),
                **sampling,
            )
        reply = str(self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)).strip()
        if not reply:
            print(EMPTY)
        self.turns.append({"role": "assistant", "content": reply})
        return reply

    def _prompt(self) -> torch.Tensor:
        """Ids (1, tokens) of the conversation, as the chat template renders it, or of the last message where there is none."""
        room = self.model.config.max_position_embeddings - self.max_new_tokens
        while True:
            ids = self._encode()
            if ids.shape[1] <= room:
                return ids.to(self.model.device)
            if len(self.turns) == 1:
                raise UserError(f"the message has {ids.shape[1]:,} tokens, and the model has room for {max(room, 0):,}; shorten it")
            del self.turns[: 2 if len(self.turns) > 2 else 1]

    def _encode(self) -> torch.Tensor:
        import torch

        if self.tokenizer.chat_template is None:
            return torch.tensor([packing.prompt_ids(self.tokenizer.backend_tokenizer, self.turns[-1]["content"])])
        return self.tokenizer.apply_chat_template(self.turns, add_generation_prompt=True, return_tensors="pt")["input_ids"]


def _streamer(tokenizer: PreTrainedTokenizerBase) -> TextStreamer:
    """Prints a reply as it is written. A model may write what would clear the screen or rename the window: that is spelled out."""
    from transformers import TextStreamer

    class Shown(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            super().on_finalized_text(shown(text, kept="\n\t"), stream_end)

    return Shown(tokenizer, skip_prompt=True, skip_special_tokens=True)


def _require(directory: Path) -> None:
    if not directory.exists():
        raise UserError(f"{directory}: no such checkpoint; `make repro` makes it")


def described(directory: Path, exported: Path | None) -> str:
    """``data/export/name.gguf (64.8 MB)``: the file of ``exported``, or the checkpoint's folder where there is none."""
    _require(directory)
    file = None if exported is None else read_back.file_in(exported)
    weights = file or directory / WEIGHTS
    return f"{file or directory} ({size(weights.stat().st_size)})".replace("\u00a0", " ")


def invitation(directory: Path, exported: Path | None) -> str:
    """The line that names the child of a run and the commands that talk to it."""
    child = described(directory, exported)
    file = None if exported is None else read_back.file_in(exported)
    if file is None:
        return f"{child}: talk to it with make chat"
    ollama = f"ollama create {file.stem} -f {file.with_name('Modelfile')}"
    return f"{child}: talk to it with make chat, or llama-cli -m {file} -cnv, or {ollama}"


def _chosen(model: Path | None, exported: Path | None) -> tuple[Path, Path | None]:
    """The checkpoint's folder and the folder of the file that has its weights; None where the checkpoint's own are asked for.

    They are also taken where nothing was exported.
    """
    if model is None and exported is None and EXPORTED.exists():
        exported = EXPORTED
    return model or CHECKPOINT, exported if exported and read_back.file_in(exported) else None


def talk(speakers: Sequence[Speaker], messages: Iterator[str]) -> None:
    """Answer every message with every speaker, until there is none or one says ``/quit``."""
    for message in messages:
        match message.strip():
            case "":
                continue
            case "/quit":
                return
            case "/new":
                for speaker in speakers:
                    speaker.turns.clear()
                print("(a new conversation)")
            case text:
                for speaker in speakers:
                    speaker.answer(text)


def _typed() -> Iterator[str]:
    """Lines as they are typed or piped in."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  # arrow keys and history in input()
    while True:
        try:
            yield input("you: " if interactive else "")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def main(argv: Sequence[str] | None = None) -> None:
    """Load the models and talk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help=f"a checkpoint to talk to; default: the file made from {CHECKPOINT}")
    parser.add_argument("--exported", type=Path, help=f"the folder of the file made from --model; default: {EXPORTED}")
    parser.add_argument("--parent", type=Path, help="a second checkpoint that answers each message too")
    parser.add_argument("--invite", action="store_true", help="only say which file the child is and what talks to it")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="tokens of a reply at most (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0, the default: always the most probable token")
    arguments = parser.parse_args(argv)
    if arguments.max_new_tokens < 1 or arguments.temperature < 0:
        raise UserError("--max-new-tokens must be ≥ 1 and --temperature ≥ 0")
    directory, exported = _chosen(arguments.model, arguments.exported)
    if arguments.invite:
        print(invitation(directory, exported))
        return
    from transformers.utils import logging

    logging.disable_progress_bar()
    print(f"The child is {described(directory, exported)}.")
    named = {"child": (directory, exported), **({"parent": (arguments.parent, None)} if arguments.parent else {})}
    limits = arguments.max_new_tokens, arguments.temperature
    speakers = [Speaker.load(name, folder, *limits, exported=file) for name, (folder, file) in named.items()]
    print("Type a message; /new starts a new conversation, /quit ends.")
    talk(speakers, _typed())


if __name__ == "__main__":
    exit_cleanly(main)
