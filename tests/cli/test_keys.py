"""What is said about keys that are typed wrongly."""

from pathlib import Path

import pytest

from configs import digits, embed, evaluate
from invariance_propagation.cli import flags as cli_flags
from invariance_propagation.cli import keys
from invariance_propagation.cli.keys import leaves
from invariance_propagation.errors import UserError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("epochs", "train.epochs"),  # without its section
        ("depth", "encoder.depth"),
        ("model.depth", "encoder.depth"),  # in a section that is none
        ("knn.epochs", "train.epochs"),  # in another section
        ("train.epoch", "train.epochs"),
        ("trian.epochs", "train.epochs"),
        ("epoch", "train.epochs"),
        ("batchsize", "train.batch_size"),
        ("method.num_hop", "method.num_hops"),
        ("sed", "seed"),
        ("seed.x", "seed"),
    ],
)
def test_the_nearest_key_is_named_with_its_section(typed: str, meant: str) -> None:
    said = keys.unknown_key(typed, leaves(digits.get_config()))
    assert said == f"unknown key --config.{typed}: did you mean --config.{meant}?"


def test_a_section_without_keys_says_so() -> None:
    said = keys.unknown_key("views.small", leaves(digits.get_config()))
    assert said.startswith("unknown key --config.views.small: views has no keys")


def test_a_name_of_several_sections_names_them() -> None:
    said = keys.unknown_key("epochs", leaves(evaluate.get_config()))
    assert said.endswith(
        "did you mean --config.finetune.epochs or --config.linear.epochs or "
        "--config.semi.epochs?"
    )


def test_without_a_near_key_the_sections_are_listed() -> None:
    said = keys.unknown_key("zzz", leaves(embed.get_config()))
    assert said.endswith(
        "the config has by, checkpoint, compare_with, folder, "
        "num_devices, num_neighbors, output, share, task, view"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "set train.batch_size to at most 4",
            "set --config.train.batch_size to at most 4",
        ),
        ("seed=x: a number", "--config.seed=x: a number"),
        ("name it (data.folder).", "name it (--config.data.folder)."),
        ("in data.folder.", "in --config.data.folder."),
        # What is no key of the config, or has its prefix.
        ("the seed is 3", "the seed is 3"),
        ("--config.train.epochs=3", "--config.train.epochs=3"),
        ("--weights=3 /a/data.folder data.folder.zip", None),
        ("metadata.folder and data.folders", None),
    ],
)
def test_messages_name_keys_as_they_are_typed(text: str, expected: str | None) -> None:
    assert keys.with_flags(text, digits.get_config()) == (expected or text)


def test_letters_where_numbers_belong() -> None:
    config = leaves(digits.get_config())
    typed = {"augment.crop_scale": ("abc",)}
    assert keys.check_tuples(typed, config) == (
        "--config.augment.crop_scale=abc: write numbers with commas between, e.g. "
        '"--config.augment.crop_scale=(0.6,1.0)"'
    )
    assert keys.check_tuples({"augment.crop_scale": (0.5, 1)}, config) is None
    assert keys.check_tuples({"mine": ("b",)}, {"mine": ("a",)}) is None


def test_the_folder_of_pictures_has_one_name_in_every_task() -> None:
    known = leaves(embed.get_config())
    for typed in ("--config.data.folder=new", "--config.folder=new"):
        argv = ["main.py", "--config=embed", typed]
        assert keys.rename(argv, known) == [*argv[:2], "--config.folder=new"]
    both = ["--config.data.folder=a", "--config.folder=a"]
    assert keys.rename(both, known) == ["--config.folder=a"] * 2
    with pytest.raises(UserError, match="--config.data.folder and --config.folder"):
        keys.rename(["--config.data.folder=a", "--config.folder=b"], known)
    spaced = ["--config.folder", "a", "--config.data.folder=a"]
    assert keys.rename(spaced, known)[0::2] == ["--config.folder", "--config.folder=a"]
    # Where the config has it by that name, it stays.
    assert keys.rename(both[:1], leaves(digits.get_config())) == both[:1]
    said = keys.unknown_key("folder", leaves(digits.get_config()))
    assert said.endswith("did you mean --config.data.folder?")


# ml_collections loads it by a way that is deprecated.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_config_that_fails_says_why(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    code = "from invariance_propagation.errors import UserError\n"
    for raised, said in (
        (
            "UserError('there is no method x: choose y')",
            "there is no method x: choose y",
        ),
        ("TypeError('two')", "TypeError: two"),
        ("ValueError('two')", "ValueError: two"),
        ("KeyError('two')", "KeyError: 'two'"),
    ):
        path.write_text(f"{code}def get_config(method=''):\n    raise {raised}\n")
        with pytest.raises(UserError) as error:
            cli_flags.parse(["main.py", f"--config={path}:x"])
        assert str(error.value) == f"--config={path}:x cannot be used: {said}"
