# SPDX-License-Identifier: Apache-2.0
"""Chat templates that behave as those of public families do, and what each of them writes, in
Python and without a template: (prompt, targets) of a conversation, or None where a part of it is
lost or refused.

A conversation is a list of (role, thinking or None, text).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from tests.support.byte_level import byte_level

Turn = tuple[str, str | None, str]
Expected = tuple[str, str] | None


@dataclass(frozen=True)
class Family:
    template: str
    written: Callable[[list[Turn]], Expected]
    special: tuple[str, ...]
    end: str

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Byte-level BPE: any text has tokens, and comes back as it was."""
        texts = ["the sum of two and three", "user system\n\n think"]
        special = ["<|pad|>", *self.special]
        inner = byte_level(special, texts, 400, ("<think>", "</think>"))
        made = PreTrainedTokenizerFast(
            tokenizer_object=inner, eos_token=self.end, pad_token="<|pad|>"
        )
        made.chat_template = self.template
        return made


CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def chatml(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


# ---------------------------------------------------------------------------------------- Qwen3
# Thinking of earlier answers goes, a last answer without any gets empty tags, other roles vanish.

_QWEN3 = """
{%- for m in messages %}
{%- if m.role == 'user' or m.role == 'system' %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}
{%- set said = namespace(thought='', answer=m.content) %}
{%- if m.reasoning_content is string %}
{%- set said.thought = m.reasoning_content %}
{%- elif '</think>' in m.content %}
{%- set said.answer = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- set said.thought = m.content.split('</think>')[0].split('<think>')[-1] %}
{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.last %}
{{- '<think>\\n' + said.thought.strip('\\n') + '\\n</think>\\n\\n' }}
{{- said.answer.lstrip('\\n') }}
{%- else %}
{{- said.answer }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def _qwen3(turns: list[Turn]) -> Expected:
    prompt = ""
    for role, thinking, text in turns[:-1]:
        if role not in ("user", "system", "assistant"):
            return None
        prompt += chatml(role, text.strip("\n") if thinking is not None else text)
    _, thinking, text = turns[-1]
    prompt += "<|im_start|>assistant\n"
    if thinking is None:
        return prompt + "<think>\n\n</think>\n\n", text.lstrip("\n") + "<|im_end|>"
    thinking, text = thinking.strip("\n"), text.strip("\n")
    return prompt, f"<think>\n{thinking}\n</think>\n\n{text}<|im_end|>"


# Qwen3 and QwQ that only think: opened by the prompt

_THINKING_ONLY = """
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set answer = m.content.split('</think>')[-1].lstrip('\\n') %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.last and '</think>' in m.content %}
{{- '<think>\\n' + m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') }}
{{- '\\n</think>\\n\\n' }}
{%- endif %}
{{- answer + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}
"""


def _thinking_only(turns: list[Turn]) -> Expected:
    prompt = ""
    for role, thinking, text in turns[:-1]:
        if role == "assistant":
            text = text.strip("\n") if thinking is not None else text.lstrip("\n")
        prompt += chatml(role, text)
    _, thinking, text = turns[-1]
    if thinking is None:
        return None  # the prompt opens what the response does not have
    prompt += "<|im_start|>assistant\n<think>\n"
    return prompt, f"{thinking.strip('\n')}\n</think>\n\n{text.strip('\n')}<|im_end|>"


# R1-Distill: thinking of every answer goes, the last too; the later ones open it in the prompt

_R1 = """
{{- '<BOS>' }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{- m.content }}
{%- elif m.role == 'user' %}{{- '<User>' + m.content }}
{%- elif m.role == 'assistant' %}
{{- '<Assistant>' + m.content.split('</think>')[-1] + '<END>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<Assistant>OPENED' }}{%- endif %}
"""


def _r1(opens: bool) -> Callable[[list[Turn]], Expected]:
    def written(turns: list[Turn]) -> Expected:
        marks = {"system": ("", ""), "user": ("<User>", ""), "assistant": ("<Assistant>", "<END>")}
        prompt = "<BOS>"
        for role, thinking, text in turns[:-1]:
            if role not in marks:
                return None
            before, after = marks[role]
            prompt += before + ("\n\n" + text.strip("\n") if thinking is not None else text) + after
        _, thinking, text = turns[-1]
        if (thinking is not None) != opens:
            return None
        if thinking is None:
            return prompt + "<Assistant>", text + "<END>"
        said = f"{thinking.strip('\n')}\n</think>\n\n{text.strip('\n')}"
        return prompt + "<Assistant><think>\n", said + "<END>"

    return written


# Llama 3: every text stripped, a header with the date

_LLAMA3 = """
{{- '<|begin_of_text|>' }}
{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content.strip() %}{%- set rest = messages[1:] %}
{%- else %}{%- set system = '' %}{%- set rest = messages %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + strftime_now('%d %b %Y') }}
{{- '\\n\\n' + system + '<|eot_id|>' }}
{%- for m in rest %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content.strip() + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def _as_text(thinking: str | None, text: str) -> str:
    """As tests give it to a tokenizer: in tags."""
    if thinking is None:
        return text
    return f"<think>\n{thinking.strip('\n')}\n</think>\n\n{text.strip('\n')}"


def _llama3(turns: list[Turn]) -> Expected:
    def turn(role: str, text: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text.strip()}<|eot_id|>"

    first = turns[0][2] if turns[0][0] == "system" else ""
    date = "Today Date: 26 Jul 2024\n\n"
    prompt = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    prompt += f"{date}{first.strip()}<|eot_id|>"
    for role, thinking, text in turns[turns[0][0] == "system" : -1]:
        prompt += turn(role, _as_text(thinking, text))
    prompt += "<|start_header_id|>assistant<|end_header_id|>\n\n"
    return prompt, _as_text(*turns[-1][1:]).strip() + "<|eot_id|>"


# Gemma: the system prompt goes into the first question; its end is another token

_GEMMA = """
{{- '<bos>' }}
{%- if messages[0].role == 'system' %}
{%- set first = messages[0].content + '\\n\\n' %}{%- set rest = messages[1:] %}
{%- else %}{%- set first = '' %}{%- set rest = messages %}{%- endif %}
{%- for m in rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles have to alternate') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}
{{- (first if loop.first else '') + m.content.strip() + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}
"""


def _gemma(turns: list[Turn]) -> Expected:
    first, rest = "", turns
    if turns[0][0] == "system":
        first, rest = turns[0][2] + "\n\n", turns[1:]
    roles = ["user" if number % 2 == 0 else "assistant" for number in range(len(rest))]
    if [(role == "user") for role, _, _ in rest] != [(role == "user") for role in roles]:
        return None
    prompt = "<bos>"
    for role, thinking, text in rest[:-1]:
        name = "model" if role == "assistant" else role
        said = first + _as_text(thinking, text).strip()
        prompt, first = f"{prompt}<start_of_turn>{name}\n{said}<end_of_turn>\n", ""
    prompt += "<start_of_turn>model\n"
    return prompt, _as_text(*rest[-1][1:]).strip() + "<end_of_turn><eos>"


# SmolLM: a system prompt of its own where there is none, every text as it is; base model

_SMOLLM = """
{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def _smollm(end: str) -> Callable[[list[Turn]], Expected]:
    def written(turns: list[Turn]) -> Expected:
        prompt = "" if turns[0][0] == "system" else chatml("system", "You are a helpful assistant.")
        for role, thinking, text in turns[:-1]:
            prompt += chatml(role, _as_text(thinking, text))
        prompt += "<|im_start|>assistant\n"
        return prompt, _as_text(*turns[-1][1:]) + end

    return written


# Mistral: the system prompt stands in front of the last question

_MISTRAL = """
{{- '<s>' }}
{%- set own = namespace(system='', last=0) %}
{%- for m in messages %}
{%- if m.role == 'system' %}{%- set own.system = m.content + '\\n\\n' %}{%- endif %}
{%- if m.role == 'user' %}{%- set own.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{{- '[INST]' + (own.system if loop.index0 == own.last else '') + m.content + '[/INST]' }}
{%- elif m.role == 'assistant' %}{{- ' ' + m.content + '</s>' }}
{%- endif %}
{%- endfor %}
"""


def _mistral(turns: list[Turn]) -> Expected:
    if {role for role, _, _ in turns} - {"system", "user", "assistant"}:
        return None
    system = "".join(text + "\n\n" for role, _, text in turns if role == "system")
    last = max((n for n, turn in enumerate(turns) if turn[0] == "user"), default=None)
    if last is None and system:
        return None
    prompt = "<s>"
    for number, (role, thinking, text) in enumerate(turns[:-1]):
        if role == "user":
            prompt += f"[INST]{system if number == last else ''}{text}[/INST]"
        elif role == "assistant":
            prompt += f" {_as_text(thinking, text)}</s>"
    return prompt, f" {_as_text(*turns[-1][1:])}</s>"


# a channel for each part, thinking in a field of its own (gpt-oss)

_CHANNELS = """
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- if m.thinking and loop.last %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}
{%- endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}
{{- '<|return|>' if loop.last else '<|end|>' }}
{%- else %}
{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}
"""


def _channels(turns: list[Turn]) -> Expected:
    prompt = ""
    for role, thinking, text in turns[:-1]:
        if role == "assistant":
            text = text.strip("\n") if thinking is not None else text
            prompt += f"<|start|>assistant<|channel|>final<|message|>{text}<|end|>"
        else:
            prompt += f"<|start|>{role}<|message|>{text}<|end|>"
    _, thinking, text = turns[-1]
    prompt += "<|start|>assistant"
    if thinking is None:
        return prompt + "<|channel|>final<|message|>", text + "<|return|>"
    target = f"<|channel|>analysis<|message|>{thinking.strip('\n')}<|end|>"
    target += f"<|start|>assistant<|channel|>final<|message|>{text.strip('\n')}<|return|>"
    return prompt, target


R1_TOKENS = ("<BOS>", "<User>", "<Assistant>", "<END>")
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
CHANNEL_TOKENS = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>")

FAMILIES = {
    "qwen3": Family(_QWEN3, _qwen3, CHATML, "<|im_end|>"),
    "thinking only": Family(_THINKING_ONLY, _thinking_only, CHATML, "<|im_end|>"),
    "r1 old": Family(_R1.replace("OPENED", ""), _r1(False), R1_TOKENS, "<END>"),
    "r1": Family(_R1.replace("OPENED", "<think>\\n"), _r1(True), R1_TOKENS, "<END>"),
    "llama 3": Family(_LLAMA3, _llama3, LLAMA3_TOKENS, "<|eot_id|>"),
    "gemma": Family(_GEMMA, _gemma, GEMMA_TOKENS, "<eos>"),
    "smollm": Family(_SMOLLM, _smollm("<|im_end|>"), CHATML, "<|im_end|>"),
    "base model": Family(_SMOLLM, _smollm("<|im_end|><|endoftext|>"), CHATML, "<|endoftext|>"),
    "mistral": Family(_MISTRAL, _mistral, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>"),
    "channels": Family(_CHANNELS, _channels, CHANNEL_TOKENS, "<|return|>"),
}
