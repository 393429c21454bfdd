# Runs in a build of the base image: fills /opt/venv with exactly what the lock names.
# Wheels alone, checked by hash; no code of a package runs but of those in source-packages.
set -eu
cd /mecapy-build
export UV_NO_CACHE=1 UV_NO_PROGRESS=1 NO_COLOR=1 UV_PYTHON_DOWNLOADS=never
export PIP_CONFIG_FILE=/mecapy-build/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
if [ -s ca-bundle.crt ]; then
    export SSL_CERT_FILE=/mecapy-build/ca-bundle.crt PIP_CERT=/mecapy-build/ca-bundle.crt
fi
while read -r package; do set -- "$@" --no-binary "$package"; done <source-packages
if command -v uv >/dev/null; then
    uv --config-file uv.toml pip install --python /opt/venv/bin/python --only-binary :all: "$@" \
        --require-hashes --no-deps --link-mode copy -r requirements.lock
else
    # The environment has no pip of its own; the Python that it was made of has.
    python=$(/opt/venv/bin/python -I -S -c 'import sys; print(sys._base_executable)')
    "$python" -I -m pip --python /opt/venv/bin/python install --only-binary :all: "$@" \
        --require-hashes --no-deps --no-compile --progress-bar off --no-warn-script-location --root-user-action ignore \
        -r requirements.lock
fi
# Not by them: their interpreter would run the .pth files of what was just installed, and with them a package's code.
# A package may hold files for another Python, which don't compile. What tests a package, no function imports.
/opt/venv/bin/python -I -S -m compileall -q -j 0 -x '/tests?/' /opt/venv/lib >/dev/null 2>&1 || true
# Anyone could write to it.
rm -f /opt/venv/.lock
