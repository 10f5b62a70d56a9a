"""Whether a tokenizer folder can write conversations, told before anything is started. Standard library, and Jinja.

The ranks read the same folder with `tokenizers` or `transformers` (`sft/chat_tokenizer.py`): what they would refuse
is refused here in their words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from megatron_patch.common.messages import Message
from megatron_patch.data.tokenizers.folder import (
    PLAIN_CLASSES,
    PLAIN_MODELS,
    FolderError,
    TokenizerFolder,
    read_folder,
    read_vocabulary,
)

LLAMA_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
"""What Llama 3.1's template is made of, which is used where a tokenizer has none."""


def chat_problems(path: Path, *, template: bool) -> list[Message]:
    """Why conversations cannot be trained with the tokenizer in this folder; empty if they can.

    Args:
        path: a folder with a tokenizer.json that `count_ids_of` has read.
        template: its chat template is needed: the conversations are not rendered yet.
    """
    if not (path / "tokenizer_config.json").is_file():
        return [Message("tokenizer-no-config", folder=path)]
    try:
        read = read_folder(path)
        found = list(_without_end(read))
        return found + (list(_template_problems(read)) if template else [])
    except FolderError as error:
        return list(error.messages)
    except (OSError, ValueError) as error:
        return [Message("tokenizer-not-readable", folder=path, error=error)]


def _without_end(read: TokenizerFolder) -> Iterator[Message]:
    """Of a class that transformers takes as it is; another may bring an eos_token."""
    plain = read.config.get("tokenizer_class") in PLAIN_CLASSES and read.model_type in PLAIN_MODELS
    if plain and "eos_token" not in read.named_tokens:
        yield Message("at", path=read.path, what=Message("tokenizer-no-eos"))


def _template_problems(read: TokenizerFolder) -> Iterator[Message]:
    templates = read.chat_templates
    vocabulary: set[str] = set()
    if not templates:  # 60 ms that other folders save
        vocabulary = set(read_vocabulary((read.path / "tokenizer.json").read_text(encoding="utf-8"))[0])
        vocabulary |= {token.content for token in read.wanted_tokens()}
    if (problem := template_problem(read.path, templates, vocabulary.__contains__)) is not None:
        yield problem
    if templates:
        yield from _syntax_problems(read.path, templates)


def template_problem(folder: Path, templates: Mapping[str, str], has: Callable[[str], bool]) -> Message | None:
    """Why a tokenizer writes no conversations, by the names of its templates; None if it does.

    Args:
        has: whether the vocabulary has a token.
    """
    if templates and not templates.keys() & {"default", "tool_use"}:
        return Message("template-no-default", folder=folder, names=list(templates))
    if not templates and (absent := [token for token in LLAMA_TOKENS if not has(token)]):
        return Message("template-none", folder=folder, tokens=absent)
    return None


def _syntax_problems(folder: Path, templates: Mapping[str, str]) -> Iterator[Message]:
    import jinja2  # 40 ms, for SFT alone

    from megatron_patch.data.sft.rendering.sandbox import BoundedTemplate, TooMuchWork

    for name in {"default", "tool_use"} & templates.keys():
        source = Message("template-of", folder=folder)
        called = Message("template", source=source)
        if name != "default":
            called = Message("template-named", name=name, source=source)
        try:
            BoundedTemplate(templates[name])
        except jinja2.TemplateSyntaxError as error:
            problem = Message("template-syntax", line=error.lineno, error=error.message)
            yield Message("at", path=called, what=problem)
        except TooMuchWork as error:
            yield from error.about(called).messages
