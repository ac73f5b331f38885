# Shared by the scripts in this folder: makes .venv in the repository and keeps it up to date. Sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv

# _install_hint VERSION: the command that installs that Python with its venv module here, for messages.
_install_hint() {
  if command -v apt-get >/dev/null; then
    echo "sudo apt install python$1 python$1-venv"
  elif command -v dnf >/dev/null; then
    echo "sudo dnf install python$1"
  elif command -v zypper >/dev/null; then
    echo "sudo zypper install python${1/./}"
  else
    echo "install Python $1 with its venv module"
  fi
}

_die() {
  echo "$(basename "$0"): $1" >&2
  exit 2
}

_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none; }

_is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The Python to use: $PYTHON, else that of .venv, else the first of these that is new enough.
_find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    _is_new_enough "$PYTHON" || _die "PYTHON=$PYTHON is not a Python 3.11 or newer"
    echo "$PYTHON"
    return
  fi
  if _is_usable "$venv/bin/python" && _is_new_enough "$venv/bin/python"; then
    echo "$venv/bin/python"
    return
  fi
  for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
    if _is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  candidate=$(command -v python3 >/dev/null && python3 -V 2>&1 || echo "no python3")
  _die "Python 3.11 or newer is needed, and there is $candidate: $(_install_hint 3.11), or name one with PYTHON=..."
}

_make_venv() {
  local python=$1
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    _die "$python has no venv module: $(_install_hint "$(_version "$python")")"
  echo "making .venv with $("$python" -V)" >&2
  if ! "$python" -m venv --clear "$venv"; then
    rm -rf "$venv"
    _die "$python cannot make .venv: see the message above"
  fi
}

# Whether .venv is there, works, has the version of this Python, and was not moved here from another folder.
_is_usable() {
  local place=$root
  if [[ -f $venv/.set-up-in ]]; then place=$(<"$venv/.set-up-in"); fi
  [[ $place == "$root" && -x $venv/bin/pip && $(_version "$venv/bin/python") == $(_version "$1") ]]
}

# Puts a mosquitto here for the tests that need one, where that takes no questions: as root, on a Debian.
need_mosquitto() {
  if PATH=$PATH:/usr/sbin command -v mosquitto >/dev/null || ((EUID != 0)) || ! command -v apt-get >/dev/null; then return; fi
  echo "installing mosquitto, for the tests over MQTT" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends mosquitto; } >/dev/null 2>&1 ||
    echo "$(basename "$0"): mosquitto could not be installed: the tests that need it are skipped" >&2
}

# set_up [dev]: .venv with the project, and with the tools of development where `dev` is given. Does nothing where that
# was done already for this pyproject.toml, these constraints and this Python.
set_up() {
  local extra=${1:-} python stamp wanted
  local -a install=(-m pip install --quiet --disable-pip-version-check --no-input)
  # One set-up at a time: a second script waits here.
  exec 9<"$root/pyproject.toml"
  if command -v flock >/dev/null; then flock 9; fi
  python=$(_find_python)
  wanted=$({ echo "$root" && _version "$python" && cat "$root/pyproject.toml" "$root/constraints.txt"; } | sha256sum)
  stamp=$venv/.set-up-${extra:-run}
  if [[ ! -f $stamp || $(<"$stamp") != "$wanted" || ! -x $venv/bin/understudy ]] || ! _is_new_enough "$venv/bin/python"; then
    if ! _is_usable "$python"; then _make_venv "$python"; fi
    echo "installing into .venv; the first time takes about a minute" >&2
    if [[ $(_version "$python") == 3.11 ]]; then
      # The versions that are tested. Others are taken by a newer Python, which may need newer ones.
      install+=(-c "$root/constraints.txt")
    fi
    "$venv/bin/python" "${install[@]}" -e "$root${extra:+[$extra]}" ||
      _die "pip could not install the project: see the message above"
    echo "$root" >"$venv/.set-up-in"
    echo "$wanted" >"$stamp"
    if [[ -n $extra ]]; then echo "$wanted" >"$venv/.set-up-run"; fi
  fi
  exec 9<&-
}
