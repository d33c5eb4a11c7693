#!/bin/sh
# Make the environment DIR (default .venv) with the toolkit in it, editable, and everything its tests and checks need.
# uv does it when it can be had, pip otherwise. Usage: scripts/environment.sh [DIR] [PYTHON]
set -eu
cd "$(dirname "$0")/.."
dir=${1:-.venv}
python=${2:-}

if [ -z "$python" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
fi
[ -n "$python" ] || { echo "Python 3.11, 3.12 or 3.13 is needed; install one (Debian: apt-get install python3)." >&2; exit 4; }

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing python$version-venv, which Debian keeps apart from Python"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "python$version-venv" >/dev/null
    else
        echo "$python has no venv module; install it first (Debian: apt-get install python$version-venv)." >&2
        exit 4
    fi
fi

# uv does not read pip's configuration: hand over where packages come from and whom to trust.
setting() { "$dir/bin/python" -m pip config get "global.$1" 2>/dev/null || true; }
rm -rf "$dir"
"$python" -m venv "$dir"
uv=$(command -v uv || true)
if [ -z "$uv" ] && "$dir/bin/python" -m pip install --quiet --disable-pip-version-check uv; then
    uv=$dir/bin/uv
fi
if [ -n "$uv" ]; then
    index=${PIP_INDEX_URL:-$(setting index-url)}
    [ -z "$index" ] || [ -n "${UV_DEFAULT_INDEX:-}" ] || export UV_DEFAULT_INDEX="$index"
    certificate=${PIP_CERT:-$(setting cert)}
    [ -z "$certificate" ] || [ -n "${SSL_CERT_FILE:-}" ] || export SSL_CERT_FILE="$certificate"
    "$uv" pip install --quiet --compile-bytecode --python "$dir/bin/python" --editable '.[dev]' && exit 0
    echo "uv did not manage; trying pip" >&2
fi
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
