# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron plan`: what a run will need, before it is started. No Megatron in this room.

What Megatron knows (parameters, buffers, what a forward pass keeps) is asked in
`t3s_megatron.megatron.fake_world` and handed over as the plain figures of `facts`.
"""
