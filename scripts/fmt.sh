#!/bin/sh
# Fails, naming them, when files are not as gofmt would write them.
set -eu
cd "$(dirname "$0")/.."
files=$(git ls-files --cached --others --exclude-standard '*.go' | while read -r file; do
	[ ! -f "$file" ] || gofmt -l "$file"
done)
if [ -n "$files" ]; then
	echo "not gofmt'ed:" >&2
	echo "$files" >&2
	exit 1
fi
