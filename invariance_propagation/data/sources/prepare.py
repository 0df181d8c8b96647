"""Prepares a data set of TFDS, as a program: python prepare.py NAME FOLDER.

TensorFlow, which TFDS's own builders need, takes seconds, memory, and of a GPU all:
hence a process of its own. What goes wrong is said on standard output.
"""

import contextlib
import sys


def main(name: str, folder: str) -> str | None:
    """Returns what went wrong, if anything did."""
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        return "this needs TensorFlow, once: pip install tensorflow-cpu"
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(
            name, data_dir=folder, file_format="array_record", try_gcs=False
        )
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        return f"TFDS has no data set {name}"
    except Exception as error:
        return str(error) or type(error).__name__
    return None


if __name__ == "__main__":
    fault = main(*sys.argv[1:])
    if fault is not None:
        print(fault)
        sys.exit(1)
