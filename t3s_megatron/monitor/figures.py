# SPDX-License-Identifier: Apache-2.0
"""Pictures by matplotlib (the extra `pictures`), in files and never on a screen."""

from __future__ import annotations

from t3s_megatron.errors import T3SError


def pyplot_without_screen():
    """matplotlib's, for files. T3SError where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise T3SError(
            'a picture needs matplotlib: pip install "t3s-megatron[pictures]"'
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def write_figure(figure, path: str, dpi: int, cannot: str) -> None:
    """Write it and let go of it. T3SError, which begins with `cannot`, where that fails."""
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=dpi)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no kind of picture
        raise T3SError(f"{cannot} ({error})") from error
    finally:
        pyplot_without_screen().close(figure)
