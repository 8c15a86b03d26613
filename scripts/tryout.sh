#!/bin/sh
# Does what README.md tells a newcomer to do: `make run`, paste each line that it
# prints, twice, and stop the box. Fails unless the first answer has a key, the
# second the same device and none, and the data folder is sound afterwards.
set -eu
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
# Below 32768, whence the kernel gives ports to whoever asks for any.
port=$((20000 + $$ % 4000))
make run DATA="$dir/box" HTTP="127.0.0.1:$port" MQTT="127.0.0.1:$((port + 4000))" \
	ADMIN="127.0.0.1:$((port + 8000))" >"$dir/out" 2>&1 &
run=$!
# shellcheck disable=SC2317 # called by the trap
clean() {
	if kill -TERM "$run" 2>/dev/null; then
		wait "$run" || true
	fi
	rm -rf "$dir"
}
trap clean EXIT

fail() {
	echo "tryout: $1" >&2
	cat "$dir/out" >&2
	exit 1
}

left=3000 # tenths of a second; the first build is in it
until grep -q 'Ctrl-C stops the box' "$dir/out"; do
	left=$((left - 1))
	[ "$left" -gt 0 ] || fail "make run printed no lines to paste"
	kill -0 "$run" 2>/dev/null || fail "make run ended"
	sleep 0.1
done

# device: the device_id in a claim's answer, be it a table or JSON.
device() {
	grep -oE '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' "$dir/answer" | head -n 1
}

grep -E '^  (bin/edgeclaim claim|mosquitto_rr|curl) ' "$dir/out" >"$dir/lines"
while read -r line; do
	program=${line%% *}
	if ! command -v "$program" >/dev/null 2>&1; then
		echo "tryout: no $program here, its line is left out"
		continue
	fi
	sh -c "$line" >"$dir/answer" 2>&1 || { cat "$dir/answer" >&2; fail "failed: $line"; }
	case $line in *Bearer*)
		grep -q '"device_id"' "$dir/answer" || fail "no devices: $(cat "$dir/answer")"
		echo "tryout: the admin API lists the devices"
		continue
		;;
	esac
	grep -q 'sk_live_' "$dir/answer" || fail "no key: $(cat "$dir/answer")"
	first=$(device)
	sh -c "$line" >"$dir/answer" 2>&1 || fail "failed again: $line"
	if grep -q 'sk_live_' "$dir/answer"; then fail "a second key: $line"; fi
	if [ -z "$first" ] || [ "$(device)" != "$first" ]; then fail "another device: $line"; fi
	echo "tryout: $program claims, and claims again"
done <"$dir/lines"
[ -s "$dir/lines" ] || fail "no lines to paste"

kill -TERM "$run"
wait "$run" 2>/dev/null || true # make says how it was ended
bin/edgeclaim check --data "$dir/box" >"$dir/answer" 2>&1 || { cat "$dir/answer" >&2; fail "the data folder is not sound"; }
echo "tryout: the box stops, and its data folder is sound"
