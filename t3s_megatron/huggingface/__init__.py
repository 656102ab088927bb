# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders: what a model in one has to be, and how they are read and written.

Nothing here imports Megatron; the weights themselves pass through `megatron/hf_weights.py`.
"""
