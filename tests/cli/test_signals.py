"""Importing the command line leaves the signals of other programs alone."""

import subprocess
import sys

from tests.tiny_run import ROOT

IMPORTED_LATE = """
import signal, sys
sys.modules["__mp_main__"] = sys.modules["__main__"]  # as some libraries do
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
import invariance_propagation.cli
assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
"""
IN_A_WORKER = """
import multiprocessing, signal

def work():
    import invariance_propagation.cli
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN

if __name__ == "__main__":
    worker = multiprocessing.get_context("spawn").Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
"""


def test_a_program_that_imports_it_keeps_its_handlers() -> None:
    subprocess.run([sys.executable, "-c", IMPORTED_LATE], cwd=ROOT, check=True)


def test_a_worker_ignores_signals(tmp_path) -> None:
    (tmp_path / "program.py").write_text(IN_A_WORKER, encoding="utf-8")
    subprocess.run(
        [sys.executable, tmp_path / "program.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
