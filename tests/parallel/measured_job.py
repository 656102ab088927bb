# SPDX-License-Identifier: Apache-2.0
"""A real job that writes down what each of its ranks holds: what a plan is compared with.

MEASURED_FOLDER/rank-N.json, in bytes, summed over real storages after the first step: parameters,
weights, gradients, optimizer (main parameters and moments), theta_0 on the host, and what the
forward pass of the first micro-batch of each chunk kept for its backward pass.
"""

from __future__ import annotations

import json
import os

from t3s_megatron.megatron.device import install_megatron_layer, install_torch_layer


def main() -> None:
    import torch

    torch.set_num_threads(1)
    install_torch_layer()
    from t3s_megatron.megatron.model import model_provider
    from t3s_megatron.megatron.releases import call_pretrain, parse_arguments
    from t3s_megatron.plugin import T3S
    from t3s_megatron.run.plain import PlainTraining

    install_megatron_layer()
    t3s = T3S(run=_measured())
    args = parse_arguments(t3s.add_arguments, {})
    plain = PlainTraining(args)
    provider, step = t3s.attach(plain.data_provider, plain.forward_step, args)
    call_pretrain(
        args,
        data_provider=provider,
        model_provider=model_provider,
        forward_step=_Watched(step),
        extra_args_provider=t3s.add_arguments,
        args_defaults={},
    )


class _Watched:
    """A forward step that adds up, once a chunk, the storages that autograd keeps of it."""

    kept: dict[int, int] = {}

    def __init__(self, step):
        self.step = step

    def __call__(self, data_iterator, model):
        import torch

        if not torch.is_grad_enabled() or id(model) in self.kept:
            return self.step(data_iterator, model)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen = {}

        def see(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
            result = self.step(data_iterator, model)
        self.kept[id(model)] = sum(t.untyped_storage().nbytes() for t in seen.values())
        return result


def _measured():
    from t3s_megatron.run.t3s import T3SRun

    class MeasuredRun(T3SRun):
        def on_train_step_end(self, context):
            if self.machine.total_steps == 0:
                self._write(context)
            super().on_train_step_end(context)

        def _write(self, context):
            import torch.distributed as dist

            parameters = [p for chunk in context.model for p in chunk.parameters()]
            buffers = [b for chunk in context.model for _, b in chunk.named_buffers()]
            weights = [*(p.data for p in parameters), *buffers]
            chain = getattr(context.optimizer, "chained_optimizers", [context.optimizer])
            inner = [one.optimizer for one in chain if one.optimizer is not None]
            main = [p for one in inner for group in one.param_groups for p in group["params"]]
            moments = [m for one in inner for state in one.state.values() for m in state.values()]
            found = {
                "parameters": sum(p.numel() for p in parameters),
                "weights": _bytes(weights),
                "gradients": _bytes([p.main_grad for p in parameters]),
                "optimizer": _bytes([*weights, *main]) - _bytes(weights) + _bytes(moments),
                "snapshot": self.state.theta_0.weights.nbytes,
                "saved": [_Watched.kept[id(chunk)] for chunk in context.model],
            }
            path = os.path.join(os.environ["MEASURED_FOLDER"], f"rank-{dist.get_rank()}.json")
            with open(path, "w") as file:
                json.dump(found, file)

    return MeasuredRun


def _bytes(tensors) -> int:
    """Every real storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


if __name__ == "__main__":
    main()
