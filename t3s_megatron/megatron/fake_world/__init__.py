# SPDX-License-Identifier: Apache-2.0
"""What Megatron itself says about a run at its real world size, on one CPU process.

torch's fake process group stands in for the other ranks and fake tensors for memory: the arguments
go through Megatron's own parser and validation, and every pipeline stage is built by Megatron's own
`get_model`, wrapped in its data parallelism and given its optimizer, without allocating anything.
The process is good for nothing else afterwards.
"""
