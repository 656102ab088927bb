# SPDX-License-Identifier: Apache-2.0
"""Talking to OpenAI-compatible servers: requests, new weights, probes. No Megatron."""
