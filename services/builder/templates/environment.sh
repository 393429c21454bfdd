# Where the two scripts of a build begin, in the folder of its files. Their arguments are what the packages of
# source-packages add to a call of uv or pip.
export UV_NO_CACHE=1 UV_NO_PROGRESS=1 NO_COLOR=1 UV_PYTHON_DOWNLOADS=never
export PIP_CONFIG_FILE=/mecapy-build/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
if [ -s ca-bundle.crt ]; then
    export SSL_CERT_FILE=/mecapy-build/ca-bundle.crt PIP_CERT=/mecapy-build/ca-bundle.crt
fi
while read -r package; do set -- "$@" --no-binary "$package"; done <source-packages
# Where there is no uv: the environment has no pip of its own; the Python that it was made of has.
pip() {
    "$(/opt/venv/bin/python -I -S -c 'import sys; print(sys._base_executable)')" -I -m pip \
        --python /opt/venv/bin/python "$@"
}
