# SPDX-License-Identifier: Apache-2.0
"""Answers of mathematics: an engine that compares values, and a second look at what it drops."""
