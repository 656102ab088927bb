# SPDX-License-Identifier: Apache-2.0
"""Students that are evaluated, and the servers that answer for them.

A server is not believed to hold what it was meant to: its greedy answers to a few prompts are
compared with those that the folder's own weights give in this process. Two checkpoints of one run
look the same from outside, and a table that compares a student with itself would say "no
difference".
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.errors import T3SError
from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Request
from t3s_megatron.servers.exchange import ServerError, exchange
from t3s_megatron.servers.probes import agreement
from t3s_megatron.servers.reload import load, require_alive, served_model
from t3s_megatron.teacher_data.prompts import Prompt

#: Each URL holds one model already; or it is given each in turn, by `servers.reload`.
HOLDS = "no"
RELOADS = (HOLDS, "model", "vllm", "sglang")
PROBE_TOKENS = 16
#: Below this agreement a server is not believed: engines round, and a greedy answer that has taken
#: another word goes on otherwise.
LEAST_AGREEMENT = 0.5
_SHORT = 10.0


@dataclass(frozen=True)
class Student:
    """`name`: its column in the tables; `folder`: of Hugging Face."""

    name: str
    folder: str


@dataclass(frozen=True)
class Served:
    """Where a student is asked: `model` is its name there. `context`: tokens of prompt and answer
    together, None where no server says it. What a request does not say (top_k, penalties) is as the
    server has it from its model's generation_config.json, which is the base's in every export."""

    urls: list[str]
    model: str
    context: int | None


def read_student(given: str) -> Student:
    """Of "NAME=DIR", or of "DIR", whose own name it then has. T3SError for what is no folder of a
    model."""
    name, sign, folder = given.partition("=")
    if not sign or os.path.exists(given):
        folder = given
        base = os.path.basename(os.path.abspath(folder))
        # A run leaves OUT/<method>/hf.
        name = os.path.basename(os.path.dirname(os.path.abspath(folder))) if base == "hf" else base
    if not os.path.exists(os.path.join(folder, "config.json")):
        raise T3SError(f"{folder}: has no config.json, so it is no Hugging Face folder")
    if "/" in name or name.startswith("."):
        raise T3SError(f"{given}: {name!r} cannot be the name of a file: give NAME=DIR")
    return Student(name, os.path.abspath(folder))


def find_servers(student: Student, urls: Sequence[str], reload: str, timeout: float) -> Served:
    """Servers that hold the student, after it was loaded there where `reload` says how.

    ServerError when one of them is not there; T3SError when none holds it.
    """
    for url in urls:
        require_alive(url)
    if reload == "model":
        for url in urls:
            load(reload, url, student.folder, timeout)
        return Served(list(urls), student.folder, None)
    if reload != HOLDS:
        for url in urls:
            load(reload, url, student.folder, timeout)
        models = [_models(url) for url in urls]
        contexts = [model.get("max_model_len") for of_url in models for model in of_url]
        return Served(list(urls), served_model(urls[0]), _smallest(contexts))
    holding, names, contexts, others = [], set(), [], []
    for url in urls:
        for model in _models(url):
            if _is(model, student):
                holding.append(url)
                names.add(str(model["id"]))
                contexts.append(model.get("max_model_len"))
            else:
                others.append(f"{url} has {model.get('id')}")
    if not holding:
        raise T3SError(
            f"{student.name}: no server holds {student.folder} ({'; '.join(others) or 'nothing'}). "
            "Serve the folder, or give --reload, and start the same command again: what was "
            "evaluated is kept"
        )
    if len(names) > 1:
        raise T3SError(
            f"{student.name}: is called {' and '.join(sorted(names))} at different servers; start "
            "them with one --served-model-name"
        )
    return Served(holding, names.pop(), _smallest(contexts))


def _models(url: str) -> list[dict]:
    path = f"{url}/v1/models"
    reply = exchange("GET", path, timeout=_SHORT)
    reply.require_success()
    try:
        models = json.loads(reply.content)["data"]
        if all(isinstance(model, dict) for model in models):
            return models
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ServerError(f"{path}: no list of models")


def _is(model: dict, student: Student) -> bool:
    said = [model.get("id"), model.get("root")]
    places = [os.path.realpath(name) for name in said if isinstance(name, str)]
    return student.name in said or os.path.realpath(student.folder) in places


def _smallest(contexts: Sequence[object]) -> int | None:
    return min((one for one in contexts if isinstance(one, int)), default=None)


def check_context(student: Student, served: Served, prompts: Sequence[Prompt], limit: int) -> None:
    """T3SError where the longest prompt and an answer of `limit` tokens do not go together into the
    server's context, or, where it does not say, into the model's positions."""
    context, whose = served.context, "the server's context (max_model_len)"
    if context is None:
        with open(os.path.join(student.folder, "config.json"), encoding="utf-8") as file:
            context = json.load(file).get("max_position_embeddings")
        whose = "the model's max_position_embeddings"
    if not isinstance(context, int):
        return
    tokenizer = load_tokenizer(student.folder)
    longest = max(len(_rendered(tokenizer, prompt)) for prompt in prompts)
    if longest + limit > context:
        raise T3SError(
            f"{student.name}: the longest prompt has {longest} tokens and answers may have "
            f"{limit}: more than {whose}, {context}. Lower --max-tokens to {context - longest}, or "
            "start the server with more"
        )


def _rendered(tokenizer, prompt: Prompt) -> list[int]:
    """As the folder's own chat template has it, which is what a server uses."""
    text = tokenizer.apply_chat_template(
        list(prompt.messages), tokenize=False, add_generation_prompt=True
    )
    return tokenizer(str(text), add_special_tokens=False)["input_ids"]


def probe(student: Student, served: Served, prompts: Sequence[Prompt], timeout: float) -> float:
    """Agreement of the servers' greedy answers to `prompts` with those of the folder's weights,
    loaded here, the least of all URLs. T3SError when one of them is not believed."""
    expected = _greedy(student.folder, prompts)
    least = 1.0
    for url in served.urls:
        client = Client([url], served.model, concurrency=1, timeout=timeout)
        requests = [Request(prompt.messages, PROBE_TOKENS, 0.0) for prompt in prompts]
        found = client.complete(requests)
        for one in found:
            if not one.is_answer:
                raise T3SError(f"{student.name}: a probe was not answered: {one.why}")
        said = ["".join(filter(None, (one.thinking, one.text))).strip() for one in found]
        agreed = agreement(expected, said)
        if agreed < LEAST_AGREEMENT:
            raise T3SError(
                f"{student.name}: the greedy answers of {url} agree to {agreed:.2f} with those of "
                f"{student.folder}: it holds other weights, or renders prompts otherwise. First "
                f"prompt: {said[0]!r} there, {expected[0]!r} here"
            )
        least = min(least, agreed)
    return least


def _greedy(folder: str, prompts: Sequence[Prompt]) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.to(device)
    model.eval()
    answers = []
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([_rendered(tokenizer, prompt)], device=device)
            made = model.generate(ids, max_new_tokens=PROBE_TOKENS, do_sample=False)
            new = made[0, ids.shape[1] :]
            answers.append(_plain(str(tokenizer.decode(new, skip_special_tokens=True))))
    return answers


def _plain(text: str) -> str:
    """Without the tags that a reasoning parser takes away."""
    return text.replace("<think>", "").replace("</think>", "").strip()
