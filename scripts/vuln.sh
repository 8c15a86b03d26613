#!/bin/sh
# govulncheck over what is compiled in. Where its database cannot be reached it
# says so and passes: the box itself is built on machines with no network.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
out=$(mktemp)
trap 'rm -f "$out"' EXIT

code=0
"$go" tool -modfile=tools/go.mod govulncheck -tags "${TAGS:-nomsgpack}" ./... >"$out" 2>&1 || code=$?
if [ "$code" -eq 1 ] && grep -qiE 'fetching vulnerabilities|dial tcp|no such host|connection (refused|reset)|i/o timeout|proxyconnect|HTTP GET .* returned' "$out"; then
	echo "govulncheck: SKIPPED, its database cannot be reached from here"
	exit 0
fi
cat "$out"
exit "$code"
