"""Ten small chat templates in the manners of ten families, and a checkpoint folder with one, as far as rendering needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, processors

from tests import tiny

LOOP = "{%- for m in messages %}"
RAISE_UNLESS_ALTERNATING = (
    "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{%- endif %}{%- endfor %}"
)


@dataclass(frozen=True)
class Family:
    """How a family writes chats."""

    template: str
    end: str  # behind a reply, said by the model; what follows a last reply in plain text is end of text
    special: tuple[str, ...]
    adds_bos: bool = False  # by the tokenizer's post-processor, too
    eos: str = "</s>"
    system: bool = True
    lead: str = ""  # what the model says before the content
    thoughts: bool = False  # whether a reply keeps its thoughts, at least where it is the last


FAMILIES = {
    "chatml": Family(
        "{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{%- endif %}"
        + LOOP
        + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}",
        "<|im_end|>",
        ("<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        thoughts=True,
    ),
    "llama 2": Family(
        "{%- if messages[0].role == 'system' %}{%- set about = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set about = '' %}{%- endif %}"
        + RAISE_UNLESS_ALTERNATING
        + LOOP
        + "{%- if m.role == 'user' %}{{ bos_token + '[INST] ' + (about if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        "{%- else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{%- endif %}{%- endfor %}",
        " </s>",
        ("<s>", "</s>"),
        adds_bos=True,
        lead=" ",
        thoughts=True,
    ),
    "llama 3": Family(
        "{{ bos_token }}"
        + LOOP
        + "{{ '<|head|>' + m.role + '<|/head|>\n\nAsked ' + strftime_now('%d %b %Y') + '. ' + m.content | trim }}{{ '<|eot|>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\nAsked ' + strftime_now('%d %b %Y') + '. ' }}{%- endif %}",
        "<|eot|>",
        ("<s>", "<|head|>", "<|/head|>", "<|eot|>"),
        adds_bos=True,
        eos="<|eot|>",
        thoughts=True,
    ),
    "gemma": Family(
        "{{ bos_token }}"
        + RAISE_UNLESS_ALTERNATING
        + LOOP
        + "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '</turn>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<turn>model\n' }}{%- endif %}",
        "</turn>",
        ("<s>", "</s>", "<turn>", "</turn>"),
        adds_bos=True,
        system=False,
        thoughts=True,
    ),
    "phi 3": Family(
        LOOP + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{%- else %}{{ eos_token }}{%- endif %}",
        "<|end|>",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "</s>"),
        thoughts=True,
    ),
    "mistral 7": Family(
        "{{ bos_token }}" + LOOP + "{%- if m.role == 'system' %}{{ '[SYS]' + m.content + '[/SYS]' }}{%- elif m.role == 'user' %}"
        "{{ '[INST]' + m.content + '[/INST]' }}{%- else %}{{ m.content + eos_token }}{%- endif %}{%- endfor %}",
        "</s>",
        ("<s>", "</s>", "[SYS]", "[/SYS]", "[INST]", "[/INST]"),
        thoughts=True,
    ),
    "zephyr": Family(
        LOOP + "{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n{%- if loop.last and add_generation_prompt %}"
        "{{ '\n<|assistant|>\n' }}{%- endif %}{{ '\n' }}{%- endfor %}",
        "</s>",
        ("</s>",),
        thoughts=True,
    ),
    "thinking stripped": Family(
        "{{ bos_token }}" + LOOP + "{%- if m.role == 'assistant' %}"
        "{%- set said = m.content if loop.last else m.content.split('</think>')[-1].lstrip() %}"
        "{{ '<reply>' + said + '</s>' }}{%- else %}{{ '<' + m.role + '>' + m.content }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<reply><think>\n' }}{%- endif %}",
        "</s>",
        ("<s>", "</s>", "<reply>", "<user>", "<system>"),
    ),
    "tools": Family(
        "{%- if tools %}{{ '<|im_start|>system\nTools: ' + tools | tojson + '<|im_end|>\n' }}{%- endif %}"
        + LOOP
        + "{{ '<|im_start|>' + m.role + '\n' + m.content }}{%- for call in m.tool_calls or [] %}"
        "{{ '<call>' + call.function | tojson + '</call>' }}{%- endfor %}{{ '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}",
        "<|im_end|>",
        ("<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        thoughts=True,
    ),
    "alpaca": Family(
        LOOP + "{%- if m.role == 'system' %}{{ m.content + '\n\n' }}{%- elif m.role == 'user' %}"
        "{{ '### Instruction:\n' + m.content + '\n\n' }}{%- else %}{{ '### Response:\n' + m.content + '\n\n' }}"
        "{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '### Response:\n' }}{%- endif %}",
        "",
        ("</s>",),
        thoughts=True,
    ),
}


def write_parent(folder: Path, family: Family | None) -> Path:
    """A checkpoint folder without weights: config, a byte-level tokenizer with the family's special tokens, its template."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny.write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = ("<s>", "</s>") if family is None else family.special
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("</s>", *special)])
    processor: list[processors.PostProcessor] = [processors.ByteLevel(trim_offsets=True)]
    if family is not None and family.adds_bos:
        bos = tokenizer.token_to_id("<s>")
        processor.append(processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)]))
    tokenizer.post_processor = processors.Sequence(processor)  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    eos = "</s>" if family is None else family.eos
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"bos_token": "<s>" if tokenizer.token_to_id("<s>") else "", "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    template = folder / "chat_template.jinja"
    template.unlink() if family is None else template.write_text(family.template)
    size = tokenizer.get_vocab_size()
    tiny.llama_config(size, eos_token_id=tokenizer.token_to_id(eos), bos_token_id=tokenizer.token_to_id("<s>")).save_pretrained(
        folder
    )
    return folder
