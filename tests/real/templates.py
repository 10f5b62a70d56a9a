"""Chat templates with `{% generation %}` around what the assistant writes, made for these tests.

Those of published tokenizers are changed where they write an assistant's turn; Mistral's are written from the
documented format.
"""

from __future__ import annotations

from pathlib import Path

import megatron_patch

START, END = "{% generation %}", "{% endgeneration %}"
LLAMA3_1 = (Path(megatron_patch.__file__).parent / "data" / "llama3_1_chat.jinja").read_text(encoding="utf-8")
LLAMA3_FIRST = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
"""Meta's of April 2024, which writes a header behind every conversation."""
LLAMA3_FIRST_MARKED = (
    "{% for message in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' }}{% if message['role'] == 'assistant' %}" + START + "{{ message['content'] | trim + "
    "'<|eot_id|>' }}" + END + "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
MISTRAL_V1 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_V3 = """{{- bos_token }}{%- for message in messages %}
{%- if message.role == "user" %}
{%- if tools is not none and loop.index0 == (messages | length) - 1 or tools is not none and loop.first %}
{{- "[AVAILABLE_TOOLS] " + (tools | tojson) + "[/AVAILABLE_TOOLS]" }}
{%- endif %}
{{- "[INST] " + message.content + "[/INST]" }}
{%- elif message.tool_calls is defined and message.tool_calls is not none %}
{{- "[TOOL_CALLS] [" }}
{%- for tool_call in message.tool_calls %}
{%- set out = tool_call.function | tojson %}
{{- out[:-1] }}
{%- if tool_call.id is undefined or tool_call.id | length != 9 %}
{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
{%- endif %}
{{- ', "id": "' + tool_call.id + '"}' }}{{- ", " if not loop.last else "]" + eos_token }}
{%- endfor %}
{%- elif message.role == "assistant" %}
{{- " " + message.content + eos_token }}
{%- elif message.role == "tool" %}
{%- if message.tool_call_id is undefined or message.tool_call_id | length != 9 %}
{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
{%- endif %}
{{- '[TOOL_RESULTS] {"content": ' + (message.content | tojson) + ', "call_id": "' + message.tool_call_id + '"}' }}
{{- "[/TOOL_RESULTS]" }}
{%- endif %}{%- endfor %}"""


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def marked_llama3_1() -> str:
    answer = (
        "{%- if message.role == 'assistant' -%}{{- turn(message.role, '') -}}" + START
        + "{{- message.content | trim ~ '<|eot_id|>' -}}" + END + "{%- else -%}"
        '{{- turn(message.role, message.content | trim) ~ "<|eot_id|>" -}}{%- endif -%}'
    )  # fmt: skip
    call = 'turn("assistant", \'{"name": "\' ~ call.name ~ \'", "parameters": \' ~ call.arguments | tojson ~ "}")'
    return replaced(
        LLAMA3_1,
        ('{{- turn(message.role, message.content | trim) ~ "<|eot_id|>" -}}', answer),
        (
            "{{- " + call + " -}}",
            '{{- turn("assistant", "") -}}' + START + '{{- \'{"name": "\' ~ call.name ~ \'", "parameters": \' ~ '
            'call.arguments | tojson ~ "}<|eot_id|>" -}}' + END,
        ),
        ('{{- "<|eom_id|>" if builtin_tools is defined else "<|eot_id|>" -}}', ""),
    )


def marked_qwen3(text: str) -> str:
    header = "{{- '<|im_start|>' + message.role + '\\n' }}" + START
    return replaced(
        text,
        ("{{- '<|im_start|>' + message.role + '\\n<think>\\n' +", "{{- '<think>\\n' +"),
        ("{{- '<|im_start|>' + message.role + '\\n' + content }}", "{{- content }}"),
        ("{%- if loop.index0 > ns.last_query_index %}", header + "{%- if loop.index0 > ns.last_query_index %}"),
        (
            "{{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\" %}",
            "{{- '<|im_end|>' }}" + END + "{{- '\\n' }}\n    {%- elif message.role == \"tool\" %}",
        ),
    )


def marked_gemma3(text: str) -> str:
    return replaced(
        text,
        (
            "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}",
            "    {%- if role == 'model' -%}" + START + "{{ message['content'] | trim + '<end_of_turn>' }}" + END
            + "\n    {%- elif message['content'] is string -%}\n        {{ message['content'] | trim }}",
        ),
        ("{{ '<end_of_turn>\n' }}", "{{ '\n' if role == 'model' else '<end_of_turn>\n' }}"),
    )  # fmt: skip


def marked_deepseek(text: str) -> str:
    return replaced(
        text,
        (
            "{{'<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}",
            "{{'<｜Assistant｜>'}}" + START + "{{message['content'] + '<｜end▁of▁sentence｜>'}}" + END,
        ),
        (
            "{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}",
            "{{'<｜tool▁outputs▁end｜>'}}" + START + "{{message['content'] + '<｜end▁of▁sentence｜>'}}" + END,
        ),
    )


def marked_mistral_v1() -> str:
    return replaced(
        MISTRAL_V1,
        ("{{ m['content'] + eos_token }}", START + "{{ m['content'] + eos_token }}" + END),
    )


def marked_mistral_v3() -> str:
    return replaced(
        MISTRAL_V3,
        ('{{- "[TOOL_CALLS] [" }}', START + '{{- "[TOOL_CALLS] [" }}'),
        ("{%- endfor %}\n{%- elif message.role == \"assistant\" %}", "{%- endfor %}" + END
         + "{%- elif message.role == \"assistant\" %}"),
        ('{{- " " + message.content + eos_token }}', START + '{{- " " + message.content + eos_token }}' + END),
    )  # fmt: skip
