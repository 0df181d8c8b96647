"""Prepares a data set of TFDS, as a program: python prepare.py NAME FOLDER.

TFDS's own builders need TensorFlow, which takes seconds to start, memory, and all of a
GPU; so they run in a separate process. Errors are printed on standard output.
"""

import contextlib
import sys


def main(name: str, folder: str) -> str | None:
    """Prepares the set; returns the reason if that fails."""
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
