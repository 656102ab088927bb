# SPDX-License-Identifier: Apache-2.0
"""Stands on the path of the tests' children, as the real one does on a machine with GPUs."""

raise RuntimeError("a process with the CPU layer has imported a package for CUDA")
