#!/bin/sh
# Says in words what is missing, before a tool says it in its own way.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}

fail() {
	echo "edgeclaim: $1" >&2
	exit 1
}

command -v git >/dev/null 2>&1 || fail "git is missing; on Debian or Ubuntu: apt-get install git"
want=$(sed -n 's/^go \([0-9][0-9.]*\)$/\1/p' go.mod)
command -v "$go" >/dev/null 2>&1 || fail "Go is missing; Go $want or later is needed: https://go.dev/doc/install"

# Inside the module, a Go that may fetch toolchains has already become the one
# that go.mod asks for. One that may not fails here, and is asked outside.
have=$("$go" env GOVERSION 2>/dev/null) || have=$(cd / && "$go" env GOVERSION)
number=${have#go}

# older A B: A is an earlier version than B, by major and minor number.
older() {
	[ "${1%%.*}" -lt "${2%%.*}" ] && return 0
	[ "${1%%.*}" -gt "${2%%.*}" ] && return 1
	a=${1#*.} b=${2#*.}
	a=${a%%[!0-9]*} b=${b%%[!0-9]*}
	[ "${a:-0}" -lt "${b:-0}" ]
}

case $number in
[0-9]*.[0-9]*) ;;
*) exit 0 ;; # a development version of Go: let it try
esac
if older "$number" "$want"; then
	fail "Go $want or later is needed, this is $number ($(command -v "$go")): https://go.dev/doc/install"
fi
