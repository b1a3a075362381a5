# Sourced by the scripts beside it: where tests/setup put the real software.

real=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SERENA_MCP_CACHE:-$(dirname "$(dirname "$real")")/.cache}
# What is installed here comes first; the Serena and node of the machine are not what was pinned.
export PATH=$cache/bin:$PATH PYTHONUNBUFFERED=1

# program NAME: its path, or exit code 69 (a dependency is not there) and a line that says what to do.
program() {
  local path
  path=$(sed -n "s|^$1 ||p" "$cache/have" 2>/dev/null)
  if [ -z "$path" ]; then
    echo "${0##*/}: $1 is not installed; run tests/setup and see what it skips" >&2
    return 69
  fi
  echo "$path"
}
