# Runs in a build of the base image: fills /opt/venv with exactly what the lock names.
# Wheels alone, checked by hash; no code of a package runs.
set -eu
cd /mecapy-build
export UV_NO_CACHE=1 UV_NO_PROGRESS=1 NO_COLOR=1 UV_PYTHON_DOWNLOADS=never
if [ -s ca-bundle.crt ]; then export SSL_CERT_FILE=/mecapy-build/ca-bundle.crt; fi
uv --config-file uv.toml pip install --python /opt/venv/bin/python --only-binary :all: \
    --require-hashes --no-deps --link-mode copy -r requirements.lock
# Not by uv: its interpreter would run the .pth files of what was just installed, and with them a package's code.
# A package may hold files for another Python, which don't compile. What tests a package, no function imports.
/opt/venv/bin/python -I -S -m compileall -q -j 0 -x '/tests?/' /opt/venv/lib >/dev/null 2>&1 || true
# Anyone could write to it.
rm -f /opt/venv/.lock
