# Runs in a build of the base image: prints the lock between two marks, and nothing of it stays.
# Only metadata of wheels is read; no code of a package runs.
set -eu
cd /mecapy-build
export UV_NO_CACHE=1 UV_NO_PROGRESS=1 NO_COLOR=1 UV_PYTHON_DOWNLOADS=never
if [ -s ca-bundle.crt ]; then export SSL_CERT_FILE=/mecapy-build/ca-bundle.crt; fi
uv --config-file uv.toml pip compile --python /opt/venv/bin/python --only-binary :all: \
    --generate-hashes --no-header --no-annotate --quiet --output-file requirements.lock requirements.in
echo '--- lock begins ---'
cat requirements.lock
echo '--- lock ends ---'
