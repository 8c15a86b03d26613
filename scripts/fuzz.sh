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
for target in $targets; do
	file=${target%%:*}
	name=${target##*:}
	echo "== $(dirname "$file") $name"
	"$go" test -tags "${TAGS:-nomsgpack}" -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$(dirname "$file")"
done
