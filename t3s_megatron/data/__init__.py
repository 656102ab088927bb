# SPDX-License-Identifier: Apache-2.0
"""From files of teacher traces to rows of token ids, and the files a run leaves behind.

Everything is keyed by sample, never by row: layouts change, samples do not.
"""
