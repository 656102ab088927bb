# SPDX-License-Identifier: Apache-2.0
"""Servers on the GPUs that train: what one has room for while the training ranks wait."""

from __future__ import annotations

from t3s_megatron.planning.facts import Answers, Colocated, Model


def weights_of(model: Model, server: Colocated) -> int:
    """Bytes of the weights on each of its GPUs."""
    return model.parameters * model.bytes_a_parameter // server.gpus


def room_for_answers(model: Model, server: Colocated) -> int:
    """Bytes on each of its GPUs for keys and values; below 0 where the weights alone do not fit."""
    return server.memory - server.reserve - weights_of(model, server)


def answers_at_once(model: Model, server: Colocated, answers: Answers) -> int:
    """Answers of the expected length, with the longest prompt, whose keys and values it can hold;
    0 where not a single one of the longest fits."""
    room, position = (
        room_for_answers(model, server),
        model.cached(model.attention_layers, server.gpus),
    )
    if room < (answers.longest_prompt + answers.limit) * position:
        return 0
    return int(room // ((answers.longest_prompt + answers.expected) * position))
