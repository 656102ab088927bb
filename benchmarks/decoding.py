# SPDX-License-Identifier: Apache-2.0
"""Tokens a second of live generation: python benchmarks/decoding.py [--device cuda]

One batch of answers whose lengths are spread evenly up to the limit, as answers to hard questions
are: decoded as the package does, and as it did (`before`), alternately in this one process. The
answers have to be the same. What `before` lacked: torch's attention over keys with their rotary
embedding, logits of the last position alone, a batch that finished answers leave, a look at what
is finished every few tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--bf16", action="store_true")
    add("--layers", type=int, default=4)
    add("--hidden", type=int, default=128)
    add("--heads", type=int, default=8)
    add("--groups", type=int, default=2)
    add("--ffn", type=int, default=256)
    add("--vocabulary", type=int, default=4096)
    add("--batch", type=int, default=16)
    add("--prompt", type=int, default=64)
    add("--limit", type=int, default=512)
    add("--repeats", type=int, default=3)
    add("--json")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    from tiny_model import context_of, gpt, start

    start(given.device)
    import torch

    from t3s_megatron.megatron import generation
    from t3s_megatron.megatron.generation import Sampling

    if given.device == "cpu":
        torch.set_num_threads(1)
    dtype = torch.bfloat16 if given.bf16 else torch.float32
    model = gpt(
        given.vocabulary, given.prompt + given.limit, dtype,
        num_layers=given.layers, hidden_size=given.hidden, num_attention_heads=given.heads,
        num_query_groups=given.groups, ffn_hidden_size=given.ffn,
    ).eval()  # fmt: skip
    context = context_of(model)
    sampling = Sampling(1.0, given.limit, 0, 7, given.vocabulary, given.batch)
    random = torch.Generator().manual_seed(2)
    prompts = torch.randint(1, given.vocabulary, (given.batch, given.prompt), generator=random)
    ends = [given.limit * (line + 1) // given.batch for line in range(given.batch)]

    class Ending(generation.Decoder):
        """Answer i ends after ends[i] tokens, whatever was sampled."""

        def _choose(self, logits, uniforms, step):
            chosen, overdue = super()._choose(logits, uniforms, step)
            last = torch.tensor([ends[line] for line in self.lines()], device=chosen.device)
            chosen = chosen.clamp(min=1)
            return torch.where(step + 1 >= last, torch.zeros_like(chosen), chosen), overdue

        def lines(self):
            return self.batch.lines

    def decode() -> tuple[list, float]:
        decoder = Ending(context, sampling, None)
        make = generation.Batch

        def remember(*args):
            decoder.batch = make(*args)
            return decoder.batch

        generation.Batch = remember
        _wait(torch)
        started = time.perf_counter()
        with torch.no_grad():
            answers = decoder.decode(
                prompts.tolist(), list(range(given.batch)), given.prompt, given.prompt
            )
        _wait(torch)
        generation.Batch = make
        return answers, time.perf_counter() - started

    seconds: dict[str, list[float]] = {"before": [], "now": []}
    answers = {}
    for _ in range(given.repeats + 1):
        for name in seconds:
            with before(generation) if name == "before" else contextlib.nullcontext():
                answers[name], took = decode()
            seconds[name].append(took)
    same = sum(a == b for a, b in zip(answers["before"], answers["now"], strict=True))
    tokens = sum(ends)
    found = {
        "model": {k: v for k, v in vars(given).items() if k != "json"},
        "tokens": tokens,
        "equal_answers": f"{same} of {given.batch}",
    }
    for name, times in seconds.items():
        times = times[1:]  # the first one warms up
        middle = statistics.median(times)
        found[name] = {
            "seconds": round(middle, 3),
            "spread": [round(min(times), 3), round(max(times), 3)],
            "tokens_s": round(tokens / middle, 1),
            "ms_a_step": round(1e3 * middle / given.limit, 3),
            "ms_a_step_and_layer": round(1e3 * middle / given.limit / given.layers, 3),
        }
    found["times"] = round(found["before"]["seconds"] / found["now"]["seconds"], 2)
    print(json.dumps(found, indent=1))
    if given.json:
        with open(given.json, "w") as file:
            json.dump(found, file, indent=1)
    if not given.bf16 and same != given.batch:
        raise SystemExit("in float32 the answers have to be the same")


def _wait(torch) -> None:
    torch.cuda.synchronize()


@contextlib.contextmanager
def before(generation):
    """Decoding as it was: with Megatron's own cache and attention, every logit of the prompt, a
    look at every token, and nobody leaves."""
    kept = generation.decoding, generation._LOOK_EVERY, generation.SHARE_TO_LEAVE
    generation.decoding = lambda chunks: contextlib.nullcontext()
    generation._LOOK_EVERY, generation.SHARE_TO_LEAVE = 1, 2
    try:
        yield
    finally:
        generation.decoding, generation._LOOK_EVERY, generation.SHARE_TO_LEAVE = kept


if __name__ == "__main__":
    main()
