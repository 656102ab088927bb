# SPDX-License-Identifier: Apache-2.0
"""Megatron training as one would write it without the plugin, on the same rows.

Megatron's own sampler and data loader over a torch Dataset, the loss function of its documentation:
the independent half of "without --t3s the run is bit-identical to Megatron without the plugin".
Only the CPU device layer and the model come from the project, and the model's loss is Megatron's.
"""

from __future__ import annotations

from functools import partial

from t3s_megatron.megatron.device import install_megatron_layer, install_torch_layer


def main() -> None:
    import torch

    torch.set_num_threads(1)
    install_torch_layer()
    from megatron.core import mpu
    from megatron.training import get_args
    from transformers import AutoTokenizer

    from t3s_megatron.data.corpus import Corpus
    from t3s_megatron.data.order import EpochOrder
    from t3s_megatron.data.records import load_records
    from t3s_megatron.data.rows import row
    from t3s_megatron.megatron.model import model_provider
    from t3s_megatron.megatron.releases import call_pretrain, parse_arguments
    from tests.parallel.probed_job import record_losses, write_losses

    install_megatron_layer()

    class Rows(torch.utils.data.Dataset):
        def __init__(self, length):
            args = get_args()
            tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_model)
            self.corpus = Corpus.build(
                load_records(args.own_data), tokenizer, seq_length=args.seq_length
            )
            self.order = EpochOrder(len(self.corpus.samples), args.seed)
            self.length, self.seq_length = length, args.seq_length

        def __len__(self):
            return self.length

        def __getitem__(self, position):
            return row(
                self.corpus.samples[self.order.sample_at(position)], self.seq_length, None, 0
            )

    def provider(num_samples, vp_stage=None):
        return Rows(num_samples[0]), None, None

    provider.is_distributed = True

    def loss_func(loss_mask, output):
        losses, mask = output.view(-1).float(), loss_mask.view(-1).float()
        loss, count = torch.sum(losses * mask), mask.sum().clone().detach().to(torch.int)
        return loss, count, {"lm loss": torch.cat([loss.clone().detach().view(1), count.view(1)])}

    def forward_step(data_iterator, model):
        ends = mpu.is_pipeline_first_stage() or mpu.is_pipeline_last_stage()
        batch = next(data_iterator) if ends else {}
        get = batch.get
        output = model(get("tokens"), get("position_ids"), None, labels=get("labels"))
        return output, partial(loss_func, get("loss_mask"))

    def model(*args, **kwargs):
        made = model_provider(*args, **kwargs)
        vars(made).pop("compute_language_model_loss", None)  # whatever stands before the class's
        return made

    def own_arguments(parser):
        parser.add_argument("--own-data", required=True)
        return parser

    losses = record_losses()
    args = parse_arguments(own_arguments, {})
    call_pretrain(
        args,
        data_provider=provider,
        model_provider=model,
        forward_step=forward_step,
        extra_args_provider=own_arguments,
        args_defaults={},
    )
    write_losses(losses)


if __name__ == "__main__":
    main()
