"""What a run says along the way."""

from invariance_propagation.train.messages import changed_settings, collapse


def test_what_is_learnt_otherwise_from_here_on_is_named(capsys) -> None:
    before = {"method": {"temperature": 0.1, "old": 1}, "train": {"epochs": 3}}
    changed_settings(before, before)
    # What is new or gone is this program's doing; more epochs are asked for by name.
    other = {"method": {"temperature": 0.1, "new": 2}, "train": {"epochs": 4}}
    changed_settings(before | {"knn": {"k": 1}}, other | {"knn": {"k": 2}})
    assert capsys.readouterr().out == ""
    changed_settings(before, {"method": {"temperature": 0.2}})
    assert "has method.temperature = 0.1 so far, and 0.2 from here on" in (
        capsys.readouterr().out
    )


def test_a_collapse_is_told_once_and_not_of_the_first_epochs() -> None:
    said, before = [], {}
    for epoch, similarity in enumerate([0.99] * 10 + [0.5, 0.95, 0.96, 0.2]):
        row = {"epoch": epoch, "similarity": similarity}
        said += collapse(row, before)
        before = row
    (warning,) = said
    assert warning.startswith("warning: in epoch 11 all images have nearly the same")
    assert "mean cosine 0.95" in warning and "optimizer.warmup_epochs" in warning
