# SPDX-License-Identifier: Apache-2.0
"""Answers that are programs: their tests, and the sandbox that they run in."""
