#!/bin/sh
# bench.sh PACKAGE…: runs the benchmarks COUNT times and lets benchstat sum up.
# The raw figures stay in bench.out; `benchstat old.out bench.out` compares.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
"$go" test -tags "${TAGS:-nomsgpack}" -run '^$' -bench "${BENCH:-.}" -benchmem \
	-benchtime "${BENCHTIME:-1s}" -count "${COUNT:-6}" -timeout 120m "$@" >bench.out || {
	cat bench.out
	exit 1
}
"$go" tool -modfile=tools/go.mod benchstat bench.out
