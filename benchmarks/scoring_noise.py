# SPDX-License-Identifier: Apache-2.0
"""How often delta_c has the wrong sign: python benchmarks/scoring_noise.py [--device cuda]

A byte-level GPTModel of Megatron is trained on this repository's text, its weights rounded to bf16
(theta_0, as a Hugging Face folder has it), and then trained for ten more steps of Adam on other
text (theta_b). Both are scored on that text as a run scores them, in bf16 and in float32, with the
logits that the model computes and with float32 logits; the truth is float64 throughout, of the very
weights that were scored.
"""

from __future__ import annotations

import argparse
import copy
import glob
import json
import os
import time
from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LENGTH, VOCABULARY = 128, 256


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--steps", type=int, default=300, help="of pre-training")
    add("--rows", type=int, default=64)
    add("--lr", type=float, nargs="+", default=[1e-5, 1e-4], help="of the ten steps to theta_b")
    add("--json")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    from tiny_model import gpt, start

    start(given.device)
    import numpy as np
    import torch

    from t3s_megatron.megatron.decoding import torch_attention
    from t3s_megatron.megatron.float32_logits import float32_logits
    from t3s_megatron.method.noise import scoring_noise

    if given.device == "cpu":
        torch.set_num_threads(1)
    device = torch.cuda.current_device()
    shape = dict(
        num_layers=4, hidden_size=128, num_attention_heads=4, num_query_groups=4,
        ffn_hidden_size=256,
    )  # fmt: skip

    def text(*patterns: str):
        names = sorted(n for p in patterns for n in glob.glob(f"{ROOT}/{p}", recursive=True))
        raw = b"\n".join(Path(name).read_bytes() for name in names)
        return torch.tensor(list(raw), dtype=torch.long)

    known, new = text("docs/*.md", "t3s_megatron/**/*.py"), text("tests/unit/**/*.py")

    def rows(source, count: int):
        starts = torch.randint(0, len(source) - LENGTH - 1, (count,))
        return torch.stack([source[i : i + LENGTH + 1] for i in starts]).to(device)

    def losses(model, x):
        positions = torch.arange(LENGTH, device=device).expand(len(x), LENGTH)
        return model(x[:, :-1], positions, None, labels=x[:, 1:].contiguous())

    def train(model, source, steps: int, lr: float, batch: int = 16) -> float:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        loss = torch.zeros(())
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 20)
            loss = losses(model, rows(source, batch)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss)

    def built(dtype, weights):
        made = gpt(VOCABULARY, LENGTH, dtype, **shape).eval()
        made.load_state_dict(
            {k: v.to(dtype) if torch.is_tensor(v) else v for k, v in weights.items()}
        )
        return made

    @torch.no_grad()
    def c_of(model, x, *, exact: bool = False, batch: int = 16):
        found = []
        with float32_logits([model] if exact else []):
            for part in x.split(batch):
                found.append(-losses(model, part).float())
        return torch.cat(found).flatten().cpu().numpy()

    @torch.no_grad()
    def truth_of(weights, x):
        model, found = built(torch.float64, weights), []
        positions = torch.arange(LENGTH, device=device).expand(16, LENGTH)
        for part in x.split(16):
            logits = model(part[:, :-1], positions[: len(part)], None)
            wanted = part[:, 1:, None]
            found.append(logits.double().log_softmax(-1).gather(-1, wanted)[..., 0])
        return torch.cat(found).flatten().cpu().numpy()

    def bf16(weights):
        return {
            k: v.bfloat16().float() if torch.is_tensor(v) and v.is_floating_point() else v
            for k, v in weights.items()
        }

    torch.manual_seed(0)
    model = gpt(VOCABULARY, LENGTH, torch.float32, **shape)
    started = time.perf_counter()
    loss = train(model, known, given.steps, 2e-3)
    theta_0 = bf16(copy.deepcopy(model.state_dict()))
    x = rows(new, given.rows)
    results: dict = {"pretraining": {"loss": round(loss, 3), "steps": given.steps},
                     "tokens": x[:, 1:].numel(), "runs": []}  # fmt: skip
    print(f"pre-trained to {loss:.3f} in {time.perf_counter() - started:.0f} s", flush=True)
    for lr in given.lr:
        model.load_state_dict(theta_0)
        torch.manual_seed(2)
        train(model, new, 10, lr)
        main_weights = copy.deepcopy(model.state_dict())
        for name, dtype, theta_b in (
            ("bf16", torch.bfloat16, bf16(main_weights)),
            ("float32", torch.float32, main_weights),
        ):
            true = truth_of(theta_b, x) - truth_of(theta_0, x)
            at_0, at_b = built(dtype, theta_0), built(dtype, theta_b)
            line = {"lr": lr, "model": name, "median_true_delta": float(np.median(np.abs(true)))}
            for logits, exact in (("as computed", False), ("float32", True)):
                c_0, c_b = c_of(at_0, x, exact=exact), c_of(at_b, x, exact=exact)
                delta = c_b - c_0
                with torch_attention([at_0] if dtype is torch.bfloat16 else []):
                    again = c_of(at_0, x, exact=exact, batch=5)
                noise = scoring_noise(c_0, again, [delta])
                line[logits] = {
                    "wrong_signs": round(float(((delta > 0) != (true > 0)).mean()), 4),
                    "error_median": float(np.median(np.abs(delta - true))),
                    "error_90": float(np.quantile(np.abs(delta - true), 0.9)),
                    "anchors": round(float((delta > 0).mean()), 4),
                    "noise": noise.to_dict() if noise else None,
                }
            line["same_bits"] = bool(
                np.array_equal(c_of(at_0, x, exact=True), c_of(at_0, x, exact=False))
            )
            results["runs"].append(line)
            print(json.dumps(line), flush=True)
    if given.json:
        with open(given.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
