# Runs in a build of the base image: fills /opt/venv with exactly what the lock names.
# Wheels alone, checked by hash; no code of a package runs but of those in source-packages.
set -eu
cd /mecapy-build
. ./environment.sh
if command -v uv >/dev/null; then
    uv --config-file uv.toml pip install --python /opt/venv/bin/python --only-binary :all: "$@" \
        --require-hashes --no-deps --link-mode copy -r requirements.lock
else
    pip install --only-binary :all: "$@" \
        --require-hashes --no-deps --no-compile --progress-bar off --no-warn-script-location --root-user-action ignore \
        -r requirements.lock
fi
# Not by them: their interpreter would run the .pth files of what was just installed, and with them a package's code.
# A package may hold files for another Python, which don't compile. What tests a package, no function imports.
/opt/venv/bin/python -I -S -m compileall -q -j 0 -x '/tests?/' /opt/venv/lib >/dev/null 2>&1 || true
# Anyone could write to it.
rm -f /opt/venv/.lock
