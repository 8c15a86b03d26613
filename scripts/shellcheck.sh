#!/bin/sh
# Reads the scripts with shellcheck, where there is one.
set -eu
cd "$(dirname "$0")/.."
if ! command -v shellcheck >/dev/null 2>&1; then
	echo "shellcheck: not installed, scripts not read"
	exit 0
fi
shellcheck scripts/*.sh .ci/run
