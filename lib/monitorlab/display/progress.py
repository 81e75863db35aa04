"""Progress bars that show in a terminal and in a notebook, and leave nothing on stderr there."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def progress(
    iterable: Iterable[Item], desc: str, total: int | None = None
) -> Generator[Item, None, None]:
    """Iterate with a progress bar, in a terminal or in a notebook.

    Parameters
    ----------
    iterable : iterable
        What to go through.
    desc : str
        What is being done, in a few words.
    total : int, optional
        Number of items, when the iterable cannot tell.

    Yields
    ------
    item
        The items of `iterable`, in order.

    Notes
    -----
    In a notebook the bar is a widget, replaced at the end by one line of text that holds no
    time, so stderr stays empty and a saved notebook says the same every time. In a terminal
    the bar goes to stderr, and only if that is a screen.
    """
    if in_kernel():
        yield from _notebook_bar(iterable, desc, total)
        return
    from tqdm import tqdm

    yield from tqdm(iterable, desc=desc, total=total, disable=None, file=sys.stderr)


def _notebook_bar(
    iterable: Iterable[Item], desc: str, total: int | None
) -> Generator[Item, None, None]:
    from IPython.display import display
    from tqdm.notebook import tqdm

    bar = tqdm(iterable, desc=desc, total=total, display=False)
    handle = display(bar.container, display_id=True)
    done = 0
    try:
        for item in bar:
            done += 1
            yield item
    finally:
        bar.close()
        text = f"{desc}: {done}" if bar.total is None else f"{desc}: {done} of {bar.total}"
        handle.update({"text/plain": text}, raw=True)


def in_kernel() -> bool:
    """Say whether outputs go to a notebook; IPython is asked only if it is loaded already."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def notify(sentence: str) -> None:
    """Print a sentence for the reader without breaking a progress bar.

    Parameters
    ----------
    sentence : str
        To stderr in a terminal, and into the output of the cell in a notebook.
    """
    if in_kernel():
        print(sentence)
        return
    from tqdm import tqdm

    tqdm.write(sentence, file=sys.stderr)
