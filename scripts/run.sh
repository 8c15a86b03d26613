#!/bin/sh
# Starts a box in $DATA in the foreground, with a sample template, a key and an
# admin token made on the first start, and prints lines that claim and look.
# Ctrl-C stops it.
set -eu
cd "$(dirname "$0")/.."
data=${DATA:-var}
http=${HTTP:-127.0.0.1:8080}
mqtt=${MQTT:-127.0.0.1:1883}
admin=${ADMIN:-127.0.0.1:9090}
edgeclaim=bin/edgeclaim

# Any tenant will do for a sample; this one is nobody's.
tenant=5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10
# The key and the token are kept in the clear for the sample's sake alone: a box
# itself keeps only hashes, and says each once.
kept=$data/sample-key
token=$data/sample-token
umask 077

# field NAME: the first string of that name in the JSON on standard input.
field() {
	tr -d '\n' | sed -n 's/.*"'"$1"'" *: *"\([^"]*\)".*/\1/p'
}

# ready_within TENTHS: waits until the box answers, or is gone.
ready_within() {
	left=$1
	until "$edgeclaim" status --data "$data" >/dev/null 2>&1; do
		left=$((left - 1))
		if [ "$left" -le 0 ] || ! kill -0 "$box" 2>/dev/null; then
			return 1
		fi
		sleep 0.1
	done
	kill -0 "$box" 2>/dev/null
}

# sample_key prints the sample key: the one kept, while the box knows it, or a
# new one.
sample_key() {
	if [ -s "$kept" ]; then
		id=$(field key_id <"$kept")
		if "$edgeclaim" key list --data "$data" --json | grep -qF "\"$id\""; then
			field provision_key <"$kept"
			return
		fi
	fi
	template=$("$edgeclaim" template create --data "$data" --json --tenant "$tenant" \
		--name "Sample" --max-claims 1000 | field template_id)
	"$edgeclaim" key issue --data "$data" --json --template "$template" >"$kept.new"
	mv "$kept.new" "$kept"
	field provision_key <"$kept"
}

# sample_token makes the admin token, unless the box knows the one that is kept.
sample_token() {
	if [ -s "$token" ] && [ -s "$token.id" ] &&
		"$edgeclaim" token list --data "$data" --json | grep -qF "\"$(cat "$token.id")\""; then
		return
	fi
	"$edgeclaim" token create --data "$data" --json --name sample --scope admin --expires 365d >"$token.new" || return 1
	field token_id <"$token.new" >"$token.id"
	field token <"$token.new" >"$token"
	rm "$token.new"
}

# body HARDWARE-ID: a claim.
body() {
	printf '{"provision_key":"%s","device_name":"Cold Store Sensor","hardware_id":"%s"}' "$key" "$1"
}

tell() {
	mqtt_host=${mqtt%:*} mqtt_port=${mqtt##*:}
	echo
	echo "The box runs; its data is in $data. Claim over MQTT:"
	echo
	echo "  $edgeclaim claim --url mqtt://$mqtt --key $key --name 'Cold Store Sensor' --hardware-id AA:BB:CC:00:11:22"
	if command -v mosquitto_rr >/dev/null 2>&1; then
		echo
		echo "or"
		echo
		echo "  mosquitto_rr -h $mqtt_host -p $mqtt_port -q 1 -t provision/request -e provision/response -m '$(body AA:BB:CC:00:11:23)'"
	fi
	echo
	echo "Claim over HTTP:"
	echo
	echo "  curl -sS -H 'Content-Type: application/json' -d '$(body AA:BB:CC:00:11:24)' http://$http/api/v1/provision"
	echo
	echo "Look at the devices over the admin API, whose token is in $token:"
	echo
	echo "  curl -sS -H \"Authorization: Bearer \$(cat $token)\" http://$admin/api/v1/devices"
	echo
	echo "Again, the answer is the same device_id and an empty api_key. Metrics: http://$admin/metrics. Ctrl-C stops the box."
}

if "$edgeclaim" status --data "$data" >/dev/null 2>&1; then
	echo "edgeclaim: a box runs already on $data; another one: make run DATA=var2 HTTP=… MQTT=… ADMIN=…" >&2
	exit 1
fi

"$edgeclaim" serve --data "$data" --http "$http" --mqtt "$mqtt" --admin "$admin" &
box=$!
# Ctrl-C reaches the box by itself, and a second signal would cut its stop short.
trap : INT
# shellcheck disable=SC2317 # called by the trap
stop() { kill -TERM "$box" 2>/dev/null || true; }
trap stop TERM HUP

if ready_within 150; then
	key=$(sample_key) || key=
	if [ -n "$key" ] && sample_token; then
		tell
	else
		echo "edgeclaim: the box runs, but no sample key or token could be made; see above" >&2
	fi
elif ! kill -0 "$box" 2>/dev/null; then
	echo "edgeclaim: the box did not start. Where an address is taken, choose others:" >&2
	echo "  make run HTTP=127.0.0.1:8081 MQTT=127.0.0.1:1884 ADMIN=127.0.0.1:9091" >&2
else
	echo "edgeclaim: the box is not ready after 15 s; see its log above" >&2
fi

# A trapped signal ends wait before the box has drained: wait again, and pass
# on how the box itself ended.
code=0
wait "$box" || code=$?
while kill -0 "$box" 2>/dev/null; do
	code=0
	wait "$box" || code=$?
done
exit "$code"
