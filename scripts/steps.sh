# shellcheck shell=bash
# What the scripts of this folder have in common: plain lines about what they do and
# how long it took. Sourced, after `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Survives a new clone: what takes minutes to make is kept here, by version.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mecapy

say() { printf '%s\n' "$@"; }

die() {
  printf 'error: %s\n' "$1" >&2
  shift
  if (($#)); then printf '       %s\n' "$@" >&2; fi
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# step "what it does" command...: runs it quietly and says how long it took;
# its output is shown only when it fails.
step() {
  local what=$1 log start
  shift
  log=$(mktemp)
  start=$SECONDS
  printf '  %-58s ' "$what"
  # Not `if "$@"`: that would switch `set -e` off inside the functions it runs.
  set +e
  (set -e; "$@") >"$log" 2>&1 </dev/null
  local code=$?
  set -e
  if ((code)); then
    printf 'failed after %ds\n' $((SECONDS - start))
    tail -n 60 "$log" >&2
    rm -f "$log"
    return "$code"
  fi
  rm -f "$log"
  printf '%ds\n' $((SECONDS - start))
}

# skip "what it would do": says that nothing has to be done.
skip() { printf '  %-58s %s\n' "$1" "already there"; }

# The Compose that is here: the plugin (v2) or Debian's docker-compose (1.29).
compose_command() { if docker compose version >/dev/null 2>&1; then echo "docker compose"; else echo docker-compose; fi; }
compose() { $(compose_command) "$@"; }

# The CA bundle that this user has configured for TLS, empty when there is none.
ca_bundle() {
  local file
  for file in "${MECAPY_CA_BUNDLE:-}" "${SSL_CERT_FILE:-}" "${PIP_CERT:-}" "${REQUESTS_CA_BUNDLE:-}" \
    "${CURL_CA_BUNDLE:-}" "$(pip_setting cert)"; do
    if [[ -n $file && -s $file ]]; then
      printf '%s' "$file"
      return
    fi
  done
}

# The package index that this user has configured for pip, empty when there is none.
index_url() { printf '%s' "${PIP_INDEX_URL:-$(pip_setting index-url)}"; }

# pip_setting KEY: from pip's own files; pip itself may not be here.
pip_setting() {
  local file
  for file in "${PIP_CONFIG_FILE:-}" "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "$HOME/.pip/pip.conf" /etc/pip.conf; do
    if [[ -n $file && -r $file ]]; then
      sed -n "s/^[[:space:]]*$1[[:space:]]*[=:][[:space:]]*//p" "$file" | head -n 1 | grep . && return
    fi
  done
  return 0
}
