#!/usr/bin/env bash
# Suite and demo on each Python, each in an environment of its own: make test-all.
# A demo that prints a warning fails. 'tests/all_pythons.sh 3.13' tests on one of them.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
    # A shim of pyenv may be there for a Python that it will not start.
    "python$1" -c pass 2>/dev/null && command -v "python$1" && return
    ls -d ~/.pyenv/versions/"$1".*/bin/"python$1" 2>/dev/null | tail -n 1 | grep .
}

mkdir -p runs
[ $# -gt 0 ] || set -- 3.11 3.13
for version; do
    if ! python=$(find_python "$version"); then
        echo "error: there is no python$version in PATH or ~/.pyenv/versions. On Debian," \
            "'debootstrap trixie DIR' makes a root that has 3.13, bookworm one that has" \
            "3.11: run this in it after apt-get install python3-venv make" >&2
        exit 2
    fi
    run=runs/digits-$version
    rm -rf "$run"
    make VENV=".venv-$version" PYTHON="$python" test
    make VENV=".venv-$version" PYTHON="$python" RUN="$run" demo 2>&1 | tee "$run.log"
    grep -q "knn trained:" "$run.log"
    if grep -i "warning" "$run.log"; then
        echo "error: the demo on Python $version printed a warning, see $run.log" >&2
        exit 1
    fi
done
