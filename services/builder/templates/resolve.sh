# Runs in a build of the base image: prints the lock between two marks, and nothing of it stays.
# Only metadata of wheels is read; no code of a package runs but of those in source-packages.
set -eu
cd /mecapy-build
export UV_NO_CACHE=1 UV_NO_PROGRESS=1 NO_COLOR=1 UV_PYTHON_DOWNLOADS=never
export PIP_CONFIG_FILE=/mecapy-build/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
if [ -s ca-bundle.crt ]; then
    export SSL_CERT_FILE=/mecapy-build/ca-bundle.crt PIP_CERT=/mecapy-build/ca-bundle.crt
fi
while read -r package; do set -- "$@" --no-binary "$package"; done <source-packages
if command -v uv >/dev/null; then
    uv --config-file uv.toml pip compile --python /opt/venv/bin/python --only-binary :all: "$@" \
        --generate-hashes --no-header --no-annotate --quiet --output-file requirements.lock requirements.in
else
    # The environment has no pip of its own; the Python that it was made of has.
    python=$(/opt/venv/bin/python -I -S -c 'import sys; print(sys._base_executable)')
    "$python" -I -m pip --python /opt/venv/bin/python install --dry-run --ignore-installed --progress-bar off \
        --report report.json --only-binary :all: "$@" -r requirements.in
    "$python" -I -S -c '
import json
for item in json.load(open("report.json"))["install"]:
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    print(f"{name}=={version} --hash=sha256:{digest}")
' >requirements.lock
fi
echo '--- lock begins ---'
cat requirements.lock
echo '--- lock ends ---'
