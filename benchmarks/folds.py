"""Compares settings on folds of the training images; the held-out images are not read.

    python benchmarks/folds.py digits "" "augment.size=12 train.epochs=40"
    python benchmarks/folds.py letters:odc --folds=1 \\
        --given="data.num_train=10000 augment.size=14" "" "optimizer.learning_rate=0.1"

First comes what stands in --config=configs/DATA.py:METHOD. Each argument after it is one
setting: overrides with spaces between; "" is the config as it stands. The training images
are cut into three blocks of consecutive ones. Each block in turn is held out, the network
is trained on the other two, and kNN of the block by the trained features is its score.
Digits are in the order of their writers, and letters in that of their families of fonts,
so a block holds writers or fonts that training has not seen.

Runs that are stored in --output are not repeated. One process per core, each with one
device: CPU seconds of a run are therefore about twice its time on two idle cores.
"""

import argparse
import ast
import contextlib
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
FOLDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="DATA, or DATA:METHOD")
    parser.add_argument("settings", nargs="+", help='overrides, or "" for none')
    parser.add_argument("--given", default="", help="overrides for every setting")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many to run")
    parser.add_argument("--seeds", type=int, default=1, help="per fold, from 0")
    parser.add_argument("--cores", type=int, default=2, help="how many to use")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "folds.jsonl")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    settings = [f"{options.given} {setting}".strip() for setting in options.settings]
    jobs = [
        (options.config, setting, seed, fold)
        for seed in range(options.seeds)
        for setting in settings
        for fold in range(options.folds)
    ]
    done = {key_of(row) for row in read_rows(options.output)}
    cores = get_context("spawn").Queue()
    usable = sorted(os.sched_getaffinity(0))[: options.cores]
    for core in usable:
        cores.put(core)
    with (
        tempfile.TemporaryDirectory(prefix="jax-cache-") as cache,
        ProcessPoolExecutor(
            len(usable),
            get_context("spawn"),
            initializer=begin,
            initargs=(cores, cache),
        ) as pool,
    ):
        waiting = [pool.submit(run_fold, *job) for job in jobs if job not in done]
        for future in as_completed(waiting):
            if future.exception():  # what runs ends, what waits does not begin
                pool.shutdown(wait=False, cancel_futures=True)
            row = future.result()
            print(json.dumps(row), flush=True)
            with options.output.open("a") as file:
                file.write(json.dumps(row) + "\n")
    rows = [row for row in read_rows(options.output) if key_of(row) in jobs]
    print_table(settings, rows)


def begin(cores: Any, cache: str) -> None:
    """Keeps this process to one core; it shares compiled programs with the others."""
    os.sched_setaffinity(0, {cores.get()})
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def run_fold(name: str, setting: str, seed: int, fold: int) -> dict[str, Any]:
    """Trains on two blocks of images; returns the scores of the third, in percent."""
    from invariance_propagation.data import sources
    from invariance_propagation.train.pretrain import train_and_evaluate

    config = config_of(name, setting)
    config.seed = seed
    config.train.evaluate_every = 0
    config.train.checkpoint_every = 10**9
    divided = fold_of(config, fold)
    config.data.num_train = 0
    started = time.process_time()
    with (
        mock.patch.dict(sources.LOADERS, {config.data.name: lambda folder: divided}),
        tempfile.TemporaryDirectory() as workdir,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        summary = train_and_evaluate(config, workdir)
    return {
        "config": name,
        "setting": setting,
        "seed": seed,
        "fold": fold,
        "trained": round(100 * summary["knn_trained"], 2),
        "raw_pixels": round(100 * summary["knn_raw_pixels"], 2),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def config_of(name: str, setting: str) -> Any:
    data, _, method = name.partition(":")
    config = importlib.import_module(f"configs.{data}").get_config(method)
    pairs = [pair.split("=", 1) for pair in setting.split()]
    config.update_from_flattened_dict({key: parse(text) for key, text in pairs})
    return config


def fold_of(config: Any, fold: int) -> Any:
    """The training images: all blocks but `fold` to train on, that one to test."""
    from invariance_propagation import settings
    from invariance_propagation.data import sources

    bound = {"size": config.augment.size, "seed": 0}  # the same images for every seed
    whole = settings.call(sources.load, "data", config, **bound)
    count = len(whole.train.images)
    test = np.arange(count) * FOLDS // count == fold
    parts = [whole.train.take(np.flatnonzero(mask)) for mask in (~test, test)]
    return whole._replace(train=parts[0], held_out=parts[1])


def parse(text: str) -> Any:
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def key_of(row: dict[str, Any]) -> tuple[str, str, int, int]:
    return row["config"], row["setting"], row["seed"], row["fold"]


def print_table(settings: list[str], rows: list[dict[str, Any]]) -> None:
    """A line for each setting; the deviation is that of seeds within their fold."""
    print("mean  worst fold mean  deviation  lowest - pixels  CPU s  runs  setting")
    for setting in settings:
        own = [row for row in rows if row["setting"] == setting]
        folds = [
            [row["trained"] for row in own if row["fold"] == fold]
            for fold in sorted({row["fold"] for row in own})
        ]
        variances = [statistics.variance(scores) for scores in folds if scores[1:]]
        deviation = statistics.mean(variances) ** 0.5 if variances else float("nan")
        print(
            f"{statistics.mean(row['trained'] for row in own):.2f}  "
            f"{min(map(statistics.mean, folds)):.2f}  {deviation:.2f}  "
            f"{min(row['trained'] - row['raw_pixels'] for row in own):+.2f}  "
            f"{statistics.mean(row['cpu_seconds'] for row in own):.0f}  "
            f"{len(own)}  {setting or '(as it stands)'}"
        )


if __name__ == "__main__":
    main()
