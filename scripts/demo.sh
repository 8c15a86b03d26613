#!/bin/sh
# Shows the way up on one machine: a broker, edgehub and two boxes on loopback,
# in a temporary folder. The link is cut, devices claim on both boxes, one and
# the same hardware among them; the link returns, and the hub prints its one
# list. Takes some seconds, ends what it started and leaves nothing.
set -eu
cd "$(dirname "$0")/.."
bin=${BIN:-bin}
# Debian keeps daemons where only root looks.
PATH=$PATH:/usr/sbin:/sbin
umask 077
dir=$(mktemp -d)
started=''
broker=''

# tenant is nobody's; key is burnt into all devices of a batch.
tenant=5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10
key=pk_factory_demo_batch_17
shared=AA:BB:CC:00:11:22

# shellcheck disable=SC2317 # called by the trap
clean() {
	for pid in $started $broker; do
		kill -TERM "$pid" 2>/dev/null || true
	done
	for pid in $started $broker; do
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
	echo "demo: $1" >&2
	for log in "$dir"/*.log; do
		echo "== $log" >&2
		tail -n 20 "$log" >&2
	done
	exit 1
}

say() { printf '\n== %s\n' "$*"; }

# run NAME COMMAND…: starts a program of the demo.
run() {
	log=$dir/$1.log
	shift
	"$@" >>"$log" 2>&1 &
	started="$started $!"
}

# start_broker starts the broker and returns 1 where its port is taken.
start_broker() {
	mosquitto -c "$dir/mosquitto.conf" >"$dir/broker.log" 2>&1 &
	broker=$!
	tenths 20 listens || { kill -KILL "$broker" 2>/dev/null || true; wait "$broker" 2>/dev/null || true; broker=; return 1; }
}

# shellcheck disable=SC2317 # called by tenths
listens() {
	kill -0 "$broker" 2>/dev/null && grep -q 'running$' "$dir/broker.log"
}

# tenths N COMMAND…: waits up to N tenths of a second until the command holds.
tenths() {
	left=$1
	shift
	until "$@"; do
		left=$((left - 1))
		[ "$left" -gt 0 ] || return 1
		sleep 0.1
	done
}

box() {
	name=$1
	shift
	"$bin/edgeclaim" "$@" --data "$dir/$name"
}

hub() { "$bin/edgehub" "$@" --data "$dir/hub"; }

# field NAME: the first text of that name in the JSON on standard input.
field() { tr -d '\n' | sed 's/"'"$1"'"/\n&/' | sed -n '2s/^"[a-z_]*" *: *"\([^"]*\)".*/\1/p'; }

# shellcheck disable=SC2317 # called by tenths
ready() { box "$1" status >/dev/null 2>&1; }
# shellcheck disable=SC2317 # called by tenths
welcome() { [ "$(box "$1" status --json | field app)" = up ]; }
# shellcheck disable=SC2317 # called by tenths
unwelcome() { ! welcome "$1"; }
# shellcheck disable=SC2317 # called by tenths
told() { box "$1" status | grep -q '^outbox prov *0 pending'; }

# claim BOX HARDWARE-ID: a device claims, and keeps its key in a file.
claim() {
	address=$(box "$1" status --json | field http)
	"$bin/edgeclaim" claim --json --url "http://$address" --key "$key" --name "Cold Store Sensor" \
		--hardware-id "$2" >"$dir/$1-$2.json" || fail "$2 could not claim on $1"
	field api_key <"$dir/$1-$2.json" >"$dir/$1-$2.key"
	grep -q '^sk_live_' "$dir/$1-$2.key" || fail "$2 got no key on $1"
	printf '  %-7s %s is device %s\n' "$1" "$2" "$(field device_id <"$dir/$1-$2.json")"
}

port=$((20000 + $$ % 20000))
until
	printf 'listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n' "$port" >"$dir/mosquitto.conf"
	[ "$(id -u)" -ne 0 ] || echo 'user root' >>"$dir/mosquitto.conf"
	start_broker
do
	port=$((port + 7))
	[ "$port" -lt 60000 ] || fail "no broker"
done

say "A broker, edgehub behind it, and two boxes that trust its key"
run hub "$bin/edgehub" serve --data "$dir/hub" --broker "mqtt://127.0.0.1:$port" --http 127.0.0.1:0
# Its first word is its key: it has made one by then.
tenths 150 test -s "$dir/hub/hub.key" || fail "edgehub did not start"
hub enrolment >"$dir/enrolment.json" || fail "no enrolment"
# Short waits between two connections, so that nobody waits for the demo.
printf 'upstream: {ack: app, backoff_base: 200ms, backoff_limit: 500ms, welcome_timeout: 1s}\n' >"$dir/box.yaml"
for name in line-a line-b; do
	run "$name" "$bin/edgeclaim" serve --data "$dir/$name" --config "$dir/box.yaml" --site "$name" \
		--http 127.0.0.1:0 --mqtt 127.0.0.1:0 --upstream "mqtt://127.0.0.1:$port"
	tenths 150 ready "$name" || fail "$name did not start"
	box "$name" enroll "$dir/enrolment.json" >/dev/null || fail "$name could not be enrolled"
	template=$(box "$name" template create --json --tenant "$tenant" --name "Cold Store" --max-claims 100 | field template_id)
	echo "$key" | box "$name" key import --template "$template" --key-stdin >/dev/null || fail "no key on $name"
done
for name in line-a line-b; do
	tenths 300 welcome "$name" || fail "$name was not welcomed"
	printf '  %-7s %s\n' "$name" "$(box "$name" status | sed -n 's/^upstream *//p' | head -n 1)"
done

say "The link is cut: the broker is gone. Devices claim on both lines"
kill -KILL "$broker"
wait "$broker" 2>/dev/null || true
broker=
for name in line-a line-b; do
	tenths 150 unwelcome "$name" || fail "$name has not seen the cut"
done
for i in 1 2 3; do
	claim line-a "AA:BB:CC:00:0A:0$i"
	claim line-b "AA:BB:CC:00:0B:0$i"
done
echo "and one and the same hardware on both, each with a key of its own:"
claim line-a "$shared"
claim line-b "$shared"
for name in line-a line-b; do
	printf '  %-7s %s\n' "$name" "$(box "$name" status | sed -n 's/^outbox prov */waits: /p')"
done

say "The link returns"
start_broker || fail "the broker did not start again"
for name in line-a line-b; do
	tenths 300 told "$name" || fail "$name has not told everything"
	printf '  %-7s %s\n' "$name" "$(box "$name" status | sed -n 's/^outbox prov */told: /p')"
done

say "The hub's one list: edgehub devices"
hub devices

say "What two boxes do not agree on: edgehub conflicts"
hub conflicts

say "A key that was claimed without a link is known upstream: edgehub verify"
hub verify <"$dir/line-b-$shared.key" || fail "the key of $shared on line-b is not known"

say "Done. All of it stops now, and $dir goes with it"
