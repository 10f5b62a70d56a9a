"""Chat templates of families, written for these tests from their published descriptions.

With the blocks that tell Hugging Face which tokens the assistant wrote; `plain` takes them out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer


@dataclass(frozen=True, kw_only=True)
class Chat:
    """How a family's conversations look."""

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str

    @property
    def plain(self) -> str:
        """As a model folder has it."""
        return re.sub(r"\{%-? (end)?generation -?%\}", "", self.template)

    def give_to(self, tokenizer: Path) -> None:
        """Make a tokenizer folder one of the family: its special tokens and its template."""
        loaded = AutoTokenizer.from_pretrained(tokenizer)
        loaded.add_tokens(list(filter(None, (*self.special, self.bos, self.eos))), special_tokens=True)
        loaded.bos_token, loaded.eos_token, loaded.chat_template = self.bos, self.eos, self.plain
        loaded.save_pretrained(tokenizer)
        (tokenizer / "special_tokens_map.json").unlink()  # of what the tokenizer was before
        file = tokenizer / "tokenizer.json"  # Hugging Face finds no token at a space that offsets leave out
        file.write_text(re.sub(r'"trim_offsets": *true', '"trim_offsets": false', file.read_text()))


# Tokens of Mistral v3: the system prompt stands in the last user turn, so that each turn rewrites the text before it;
# answers begin with a space and end with </s>.
MISTRAL = Chat(
    template="""{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] + '\n\n' -%}
{%- set rest = messages[1:] -%}{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- set users = rest|selectattr('role', 'equalto', 'user')|list -%}
{%- for message in rest -%}
{%- if message['role'] == 'user' -%}
{{- '[INST] ' + (system if message is sameas users[-1] else '') + message['content'] + '[/INST]' -}}
{%- else -%}
{%- generation -%}{{- ' ' + message['content']|trim + eos_token -}}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}""",
    special=("[INST]", "[/INST]"),
    bos="<s>",
    eos="</s>",
)

# ChatML as Qwen2.5 has it: a system turn of its own where the conversation has none.
QWEN2_5 = Chat(
    template="""{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}
{{- '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}""",
    special=("<|im_start|>", "<|im_end|>"),
    bos=None,
    eos="<|im_end|>",
)

# Qwen3: no default system turn; the last answer has its reasoning in front, empty where there is none, and earlier
# answers lose theirs.
QWEN3 = Chat(
    template="""{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- set thought = '<think>\n\n</think>\n\n' if loop.last else '' -%}
{%- generation -%}{{- thought + message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}
{{- '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}""",
    special=("<|im_start|>", "<|im_end|>"),
    bos=None,
    eos="<|im_end|>",
)

CHATS = {"mistral": MISTRAL, "qwen2_5": QWEN2_5, "qwen3": QWEN3}
"""By family; Llama's is the project's own (data/llama3_1_chat.jinja)."""
