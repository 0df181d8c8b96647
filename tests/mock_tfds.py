"""TFDS's mock data of its own sets, stored as these sets are: to try what is not at hand.

    python -m tests.mock_tfds FOLDER cifar10 svhn_cropped --examples=512

Random pixels and labels with the features, splits, version and file format of the real
set; runs on them say that the code works, and nothing else. Needs TensorFlow.
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from PIL import Image

HELD_OUT_SHARE = 4  # a held-out split has this many times fewer examples


def store(name: str, folder: str | Path, *, examples: int) -> None:
    """Writes FOLDER/NAME/VERSION, as `download_and_prepare` does for the real set."""
    stock = tfds.builder(name, data_dir=folder, file_format="array_record")
    splits = SPLITS.get(stock.name, ("train", "test"))
    config = stock.builder_config
    members = {
        "name": stock.name,
        "VERSION": stock.version,
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config.name)]
        if config
        else [],
        "_info": lambda self: tfds.core.DatasetInfo(
            builder=self, features=stock.info.features
        ),
        "_split_generators": lambda self, manager: {
            split: generate(stock, split, examples // (HELD_OUT_SHARE if i else 1))
            for i, split in enumerate(splits)
        },
        "_generate_examples": generate,
    }
    make = functools.partial(type, stock.name, (tfds.core.GeneratorBasedBuilder,))
    with tfds.core.registered.skip_registration():
        builder = make(members)(
            data_dir=folder, file_format="array_record", config=config and config.name
        )
    builder.download_and_prepare()


SPLITS = {
    "imagenet2012": ("train", "validation"),
    "imagenet2012_subset": ("train", "validation"),
    "stl10": ("unlabelled", "test", "train"),
    "places365_small": ("train", "validation"),
    "oxford_flowers102": ("train", "validation", "test"),
    "voc": ("train", "validation", "test"),
}


def generate(
    stock: tfds.core.DatasetBuilder, split: str, count: int
) -> Iterator[tuple[int, dict]]:
    """Random examples; without labels where TFDS has none."""
    with tfds.testing.mock_data(num_examples=count):
        source = stock.as_data_source(split="train")
        for key in range(count):
            example = source[key]
            if split == "unlabelled":
                example["label"] = -1
            if stock.name == "voc":
                # As few classes as a real image shows; the mock has some twenty, and
                # of `objects` each part has another length.
                labels = example["labels"][:3]
                parts = {"labels": labels, "labels_no_difficult": labels[:2]}
                example |= parts | {"objects": []}
            # TFDS would encode an array by TensorFlow.
            example["image"] = Image.fromarray(example["image"])
            yield key, example


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--examples", type=int, default=64, help="to train on")
    options = parser.parse_args()
    for name in options.names:
        store(name, options.folder, examples=options.examples)
