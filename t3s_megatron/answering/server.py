# SPDX-License-Identifier: Apache-2.0
"""`--t3s-generation server`: OpenAI-compatible servers answer with the weights they are given.

Before a measurement the live weights are exported, the servers load them, and a few prompts are
answered greedily by both (`probes`). A server that fails in any of it is left out of the
measurement; without any, every answer is unfinished, and so the measurement void. One rank talks
to the servers; all ranks export, answer the probes, and learn what came of it.

Servers on the job's own GPUs (`--t3s-server-colocated`) sleep but while they are asked. All ranks
give back what torch has cached before one is woken, and none goes on before all are asleep again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from t3s_megatron.accuracy.answers import Answer, Progress, Sampling
from t3s_megatron.answering.exports import Exports
from t3s_megatron.config import T3SConfig
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.generation import Generated
from t3s_megatron.megatron.pause import training_paused
from t3s_megatron.megatron.process import get_args
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.servers import reload, sleeping
from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Completion, Finish, Request
from t3s_megatron.servers.exchange import ServerError, base_url
from t3s_megatron.servers.probes import PROBE_TOKENS, PROBES, compare
from t3s_megatron.servers.prompt_text import prompt_texts

#: Seeds of servers are of 31 bits at the least.
_SEEDS = 2**31
#: Faults told of one measurement, the most frequent ones.
_MOST_FAULTS = 3


@dataclass
class ServedWeights:
    """`expected`: the live weights' answers to the probes, `earlier` those of other weights by
    their names. `ready`: URL -> name of the model, of the servers that answer like them."""

    folder: str
    expected: list[str]
    earlier: dict[str, list[str]]
    ready: dict[str, str] = field(default_factory=dict)


class ServerBackend:
    """See `accuracy.answers.Backend`. `samples`: those whose prompts may be asked, from which the
    probes are taken. `tell(line)`: for a person who watches, said by `root`. `answer`:
    `generation.generate`, or one of its kind, by which the live weights answer the probes."""

    def __init__(
        self,
        config: T3SConfig,
        tokenizer,
        samples: list[Sample],
        max_new_tokens: int,
        root: int,
        tell: Callable[[str], None],
        answer: Callable[..., list[Generated]],
    ):
        self.config = config
        self.tokenizer = tokenizer
        self.is_root = layout.rank() == root
        self.root = root
        self.tell = tell
        self.answer = answer
        self.urls = [base_url(url) for url in self.config.server_url]
        chosen = samples[:: max(1, len(samples) // PROBES)][:PROBES]
        self.probes = [sample.tokens[: sample.prompt_length].tolist() for sample in chosen]
        self.probe_tokens = min(PROBE_TOKENS, max_new_tokens)
        self.colocated = config.server_colocated
        self.exports = Exports(
            get_args(), self.tokenizer, config.server_weights, of_each_node=self.colocated
        )
        self._earlier: dict[str, list[str]] = {}
        self._in_use: set[str] = set()  # folders
        self.cancelled = False
        self._checked: ServedWeights | None = None

    # -------------------------------------------------------------------------- on every rank

    def check(self, context: CallbackContext) -> None:
        """ServerError on all ranks unless a server loads the live weights and answers like them."""

        def reach() -> None:
            if self.is_root:
                self._require_any(self._reachable())

        layout.together(reach)
        weights = self._export(context)

        def answer() -> None:
            if self.is_root:
                self._require_any(self._make_ready(weights))

        self._make_room()
        layout.together(answer)
        self._back_to_sleep(weights)
        if context.iteration == 0:
            self._checked = weights
        else:
            self._in_use.discard(weights.folder)

    def take(self, context: CallbackContext, *, step: int) -> ServedWeights:
        if self._checked is not None:
            if step == 0:
                return self._checked
            self._in_use.discard(self._checked.folder)
            self._checked = None
        return self._export(context)

    def _export(self, context: CallbackContext) -> ServedWeights:
        expected = self._live_answers(context)
        with training_paused(context):  # an overlapped gather of the last update is waited for
            folder = self.exports.write(context.model, context.iteration, keep=self._in_use)
        self._in_use.add(folder)
        weights = ServedWeights(folder, expected, dict(self._earlier))
        now = f"iteration {context.iteration}"
        self._earlier.setdefault("the start", expected)
        # The start and the last one: what a server that has not loaded anything holds.
        self._earlier = {"the start": self._earlier["the start"], now: expected}
        return weights

    def generate(
        self,
        weights: ServedWeights,
        prompts: list[list[int]],
        sampling: Sampling,
        *,
        numbers: list[int],
        timeout: float | None,
    ) -> list[Answer]:
        answers: list[Answer] = []

        def ask() -> list[tuple[int, bool, bool]] | None:
            if not self.is_root:
                return None
            answers.extend(
                self.answers(weights, prompts, sampling, numbers=numbers, timeout=timeout)
            )
            return [(one.tokens, one.truncated, one.unfinished) for one in answers]

        self._make_room()
        told = layout.together(ask)[self.root]  # without the texts, which may be long
        return answers if self.is_root else [Answer("", *one) for one in told]

    def release(self, weights: ServedWeights) -> None:
        self._in_use.discard(weights.folder)
        self._back_to_sleep(weights)

    def close(self) -> None:
        self.exports.remove_all()

    def _make_room(self) -> None:
        """Servers are about to take memory on the GPUs of every rank."""
        if self.colocated:
            layout.together(torch.cuda.empty_cache)

    def _back_to_sleep(self, weights: ServedWeights) -> None:
        if not self.colocated:
            return

        def sleep() -> None:
            if self.is_root:
                sleeping.put_to_sleep(self.urls, self.config.server_reload_timeout, self.tell)

        weights.ready = {}
        layout.together(sleep)

    def _live_answers(self, context: CallbackContext) -> list[str]:
        sampling = Sampling(
            temperature=0.0,
            max_new_tokens=self.probe_tokens,
            end_token=self.tokenizer.eos_token_id,
            seed=0,
            vocab_size=len(self.tokenizer),
            batch_size=self.config.generation_batch_size,
        )
        found = self.answer(context, self.probes, sampling)
        # As servers do.
        return [str(self.tokenizer.decode(one.tokens, skip_special_tokens=True)) for one in found]

    # ----------------------------------------------------------------------- on the root alone

    @layout.failures_named("generated answers")
    def answers(
        self,
        weights: ServedWeights,
        prompts: list[list[int]],
        sampling: Sampling,
        *,
        numbers: list[int],
        timeout: float | None,
    ) -> list[Answer]:
        """`generate` without a word to other ranks."""
        if not weights.ready and not self.cancelled:
            for fault in self._make_ready(weights):
                self.tell(fault)
        if not weights.ready:
            return [Answer("", 0, False, unfinished=True)] * len(prompts)
        limit = sampling.max_new_tokens
        requests = [
            Request(
                prompt,
                # One more: an end token in the last place allowed is an end, and servers differ in
                # whether they then say "stop" or "length".
                max_tokens=limit + 1,
                temperature=sampling.temperature,
                seed=sampling.seed_of(number) % _SEEDS,
            )
            for prompt, number in zip(self._rendered(prompts), numbers, strict=True)
        ]
        progress = Progress(len(requests), self.tell)
        completions = self._complete(weights.ready, requests, timeout, progress)
        for finish in (Finish.REFUSED, Finish.UNFINISHED):
            faults = Counter(one.why for one in completions if one.finish is finish)
            for why, times in faults.most_common(_MOST_FAULTS):
                self.tell(f"{times} of {len(completions)} answers {finish}: {why}")
        if any(one.finish is Finish.UNFINISHED for one in completions):
            weights.ready = {}  # who knows what they hold now
        return [_answer(one, limit) for one in completions]

    def _complete(
        self,
        ready: dict[str, str],
        requests: list[Request],
        timeout: float | None,
        progress: Progress,
    ) -> list[Completion]:
        # All servers of a run hold the same weights, and so have one name for them.
        (model,) = set(ready.values())
        client = Client(
            list(ready),
            model,
            concurrency=self.config.server_concurrency,
            timeout=self.config.server_timeout,
            retries=self.config.server_retries,
            extra=reload.sampling_fields(self.config.server_reload),
            keeps_state=True,
            say=self.tell,
            cancelled=lambda: self.cancelled,
        )
        return client.complete(
            requests, timeout=timeout, finished=lambda _, one: progress.add(1, one.tokens)
        )

    def _rendered(self, prompts: list[list[int]]) -> list:
        if reload.takes_token_ids(self.config.server_reload):
            return prompts
        return prompt_texts(self.tokenizer, prompts)

    def _reachable(self) -> list[str]:
        """What is wrong with each URL that does not answer."""
        faults = []
        for url in self.urls:
            try:
                reload.require_alive(url)
            except ServerError as error:
                faults.append(str(error))
        return faults

    def _require_any(self, faults: list[str]) -> None:
        for fault in faults:
            self.tell(fault)
        if len(faults) == len(self.urls):
            raise ServerError(f"--t3s-generation server: no server is of use: {'; '.join(faults)}")

    def _make_ready(self, weights: ServedWeights) -> list[str]:
        """Load the weights everywhere and set `ready`; what is wrong with each other URL."""
        config = self.config
        weights.ready = {}
        if config.server_reload_command is not None:
            try:
                reload.run_command(
                    config.server_reload_command,
                    weights.folder,
                    self.urls,
                    config.server_reload_timeout,
                )
            except ServerError as error:
                return [str(error)] * len(self.urls)
        faults = []
        # At once: each may take minutes.
        with ThreadPoolExecutor(len(self.urls)) as threads:
            loading = {url: threads.submit(self._load, url, weights) for url in self.urls}
        for url, loaded in loading.items():
            try:
                weights.ready[url] = loaded.result()
            except ServerError as error:
                faults.append(str(error))
        if len(set(weights.ready.values())) > 1:
            raise T3SError(
                f"the servers have different names for the model ({weights.ready}): give all of "
                "them one (--served-model-name), or start them alike"
            )
        if faults:
            self.tell(f"{len(weights.ready)} of {len(self.urls)} servers ready")
        return faults

    def _load(self, url: str, weights: ServedWeights) -> str:
        """The name under which `url` answers with the weights. ServerError when it does not."""
        config = self.config
        kind, patience = config.server_reload, config.server_reload_timeout
        if self.colocated:
            sleeping.wake_for_weights(url, patience)
        reload.load(kind, url, weights.folder, patience)
        if self.colocated:
            sleeping.wake_for_answers(url, patience)
        if config.server_reload == "model":
            model = weights.folder
        else:
            model = config.server_model or reload.served_model(url)
        requests = [
            Request(prompt, max_tokens=self.probe_tokens, temperature=0.0, seed=0)
            for prompt in self._rendered(self.probes)
        ]
        # `transformers serve` loads the weights with the first of them.
        timeout = config.server_reload_timeout + config.server_timeout
        progress = Progress(len(requests), self.tell)
        found = self._complete({url: model}, requests, timeout, progress)
        lost = [one.why for one in found if one.finish is Finish.UNFINISHED]
        answered = [i for i, one in enumerate(found) if one.is_answer]
        if lost or not answered:
            first = next(one.why for one in found if not one.is_answer)
            n = len(found) - len(answered)
            raise ServerError(f"{url}: {n} of {len(found)} probes unfinished: {first}")
        if len(answered) < len(found):
            refused = next(one.why for one in found if not one.is_answer)
            self.tell(f"{len(found) - len(answered)} of {len(found)} probes refused: {refused}")

        def of_answered(texts: list[str]) -> list[str]:
            return [texts[i] for i in answered]

        finding = compare(
            of_answered(weights.expected),
            of_answered([one.text for one in found]),
            {name: of_answered(texts) for name, texts in weights.earlier.items()},
            config.server_agreement,
        )
        self.tell(f"{url}: {finding.describe(len(answered))}")
        if finding.fault is not None:
            raise ServerError(f"{url}: {finding.fault}. Is it the same model, tokenizer and dtype?")
        return model


def _answer(completion: Completion, limit: int) -> Answer:
    """The end token, which the server counts, is no part of an answer."""
    if not completion.is_answer:
        return Answer("", 0, False, unfinished=True)
    if completion.finish is Finish.LENGTH or completion.tokens > limit:
        return Answer(completion.text, limit, truncated=True)
    return Answer(completion.text, max(completion.tokens - 1, 0), truncated=False)
