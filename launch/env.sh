# shellcheck shell=bash
# Sourced from the repository root: `source launch/env.sh EXTRAS`, such as "", test or "app,shots".
# Puts a virtual environment first on PATH in which this folder is installed, editable, with these
# extras of pyproject.toml; makes it if need be.
#   M2DIT_VENV  where the environment lies (default .venv)
#   M2DIT_PYTHON  the Python to make it with (default: the first on PATH that will do)

m2dit_find_python() {
  local name found=""
  for name in ${M2DIT_PYTHON:-python3 python3.13 python3.12 python3.11}; do
    command -v "$name" >/dev/null || continue
    # Run it: a pyenv shim may exist for a version that is not active, and Debian ships a
    # Python whose venv module lacks ensurepip.
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      echo "$name"
      return
    fi
    found+="  $name: $("$name" -c 'import sys
print(sys.version.split()[0], end="")
try:
    import venv, ensurepip
except ImportError:
    print(", without venv (on Debian and Ubuntu: install python3-venv)", end="")' \
      2>/dev/null || echo "does not run")"$'\n'
  done
  {
    echo "Need Python 3.11 or newer, with its venv module. Found on PATH:"
    printf '%s' "${found:-  none
}"
  } >&2
  return 1
}

m2dit_venv_works() {
  "$1/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

m2dit_env() {
  local extras=$1 venv=${M2DIT_VENV:-.venv} package=. python wanted stamp log

  if [[ -n $extras ]]; then package=".[$extras]"; fi

  if ! m2dit_venv_works "$venv"; then
    # Environments made by uv have no pip, which is easily added. Anything else that does not
    # work was left behind by an interrupted run or an uninstalled Python.
    if ! { "$venv/bin/python" -m ensurepip >/dev/null 2>&1 && m2dit_venv_works "$venv"; }; then
      python=$(m2dit_find_python) || return 1
      if [[ -e $venv ]]; then
        if [[ ! -e $venv/pyvenv.cfg && -n $(ls -A "$venv") && ! -e $venv/bin ]]; then
          echo "$venv exists and is not a Python environment: move it away." >&2
          return 1
        fi
        echo "The environment in $venv is incomplete: making it anew with $python."
      else
        echo "Making an environment in $venv with $python."
      fi
      "$python" -m venv --clear "$venv" || {
        echo "Could not make the environment in $venv." >&2
        return 1
      }
    fi
  fi

  # The stamp holds what was last installed, and from which folder; it is written last, so an
  # interrupted install is taken up again.
  stamp=$venv/.installed${extras:+-$extras}
  wanted=$(cat pyproject.toml requirements.txt hatch_build.py | cksum) || return 1
  wanted+=" $PWD"
  if [[ ! -f $stamp || $(cat "$stamp") != "$wanted" ]]; then
    log=$venv/pip.log
    echo "Installing $package into $venv (the first time takes a few minutes)."
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check --quiet \
      --editable "$package" >"$log" 2>&1; then
      {
        tail -n 20 "$log"
        echo "Could not install $package: see above, or all of it in $log."
        echo "Tested with Python 3.11 to 3.14; this is $("$venv/bin/python" -V 2>&1)."
      } >&2
      return 1
    fi
    echo "$wanted" >"$stamp"
  fi

  VIRTUAL_ENV=$(cd "$venv" >/dev/null && pwd)
  PATH=$VIRTUAL_ENV/bin:$PATH
  export VIRTUAL_ENV PATH
}

m2dit_env "$1"
