#!/bin/sh
# Runs every fuzz target of the tree, one after the other, for FUZZTIME each.
# What a run finds lies in the package's testdata/fuzz, to be kept as a case.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
time=${FUZZTIME:-10s}

targets=$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's/:func /:/' | sort)
if [ -z "$targets" ]; then
	echo "no fuzz targets" >&2
	exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz PACKAGE NAME: one target. A short minimising leaves the time to the
# search. The tool calls it a failure when its own time is up in the middle of an
# input ("context deadline exceeded"): that one is none, as long as no input was
# written down.
fuzz() {
	"$go" test -tags "${TAGS:-nomsgpack}" -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 10x "$1" >"$log" 2>&1 && status=0 || status=$?
	cat "$log"
	[ "$status" -eq 0 ] && return 0
	grep -q 'Failing input written' "$log" && return "$status"
	grep -q '^    context deadline exceeded$' "$log" || return "$status"
	echo "   the time was up in the middle of an input: no finding"
}

for target in $targets; do
	file=${target%%:*}
	name=${target##*:}
	echo "== $(dirname "$file") $name"
	fuzz "$(dirname "$file")" "$name"
done
