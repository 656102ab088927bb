# SPDX-License-Identifier: Apache-2.0
"""The families of students: one file each, and one line in `table`.

A family says how config.json and Megatron's arguments describe the same model, and which tensors
of a folder make up which of Megatron's parameters. Nothing else knows a family by name.
"""
