"""Prepares a data set of TFDS, as a program: python prepare.py NAME FOLDER.

TFDS's own builders need TensorFlow, which takes seconds to start, memory, and all of a
GPU; so they run in a separate process. Errors are printed on standard output.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ANSWER_WITHIN = 6.0  # seconds; TFDS itself would wait for minutes


def main(name: str, folder: str) -> str | None:
    """Prepares the set; returns the reason if that fails."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(
            name, data_dir=folder, file_format="array_record", try_gcs=False
        )
        # Each of these is known before TensorFlow is imported.
        fault = _missing_by_hand(builder, folder) or _missing_tensorflow()
        fault = fault or _missing_network(builder.url_infos)
        if fault:
            return fault
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        return f"TFDS has no data set {name}"
    except Exception as error:
        return str(error) or type(error).__name__
    return None


def _missing_by_hand(builder: Any, folder: str) -> str | None:
    """Says which files you must download, where TFDS may not and none is there."""
    manual = Path(folder) / "downloads" / "manual"
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if not instructions or any(manual.glob("*")):
        return None
    return f"put the files that TFDS may not download into {manual}: {instructions}"


def _missing_tensorflow() -> str | None:
    if find_spec("tensorflow") is None:
        return "this needs TensorFlow, once: pip install '.[prepare]'"
    return None


def _missing_network(urls: Iterable[str]) -> str | None:
    """Asks each host for one of the files, and names the first that does not answer."""
    hosts = {urlsplit(url).hostname: url for url in urls if url.startswith("http")}
    waiting = {host: threading.Event() for host in hosts}
    for host, url in hosts.items():
        # Where there is no network, a name server may keep a thread for a minute.
        threading.Thread(target=_ask, args=(url, waiting[host]), daemon=True).start()
    until = time.monotonic() + ANSWER_WITHIN
    for host, answered in waiting.items():
        if not answered.wait(until - time.monotonic()):
            return (
                f"{host} cannot be reached within {ANSWER_WITHIN:g} seconds: is this "
                "machine connected to the internet, and is the proxy right?"
            )
    return None


def _ask(url: str, answered: threading.Event) -> None:
    import requests

    try:
        requests.head(url, timeout=ANSWER_WITHIN)
    except requests.exceptions.SSLError:
        pass  # it answers, and TFDS may know its certificate
    except requests.RequestException:
        return
    answered.set()


if __name__ == "__main__":
    fault = main(*sys.argv[1:])
    if fault is not None:
        print(fault)
        sys.exit(1)
