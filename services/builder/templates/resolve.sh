# Runs in a build of the base image: prints the lock between two marks, and nothing of it stays.
# Only metadata of wheels is read; no code of a package runs but of those in source-packages.
set -eu
cd /mecapy-build
. ./environment.sh
if command -v uv >/dev/null; then
    uv --config-file uv.toml pip compile --python /opt/venv/bin/python --only-binary :all: "$@" \
        --generate-hashes --no-header --no-annotate --quiet --output-file requirements.lock requirements.in
else
    pip install --dry-run --ignore-installed --progress-bar off \
        --report report.json --only-binary :all: "$@" -r requirements.in
    /opt/venv/bin/python -I -S -c '
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
