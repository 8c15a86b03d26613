#!/bin/sh
# packages.sh PACKAGE…: makes sure that the programs of these Debian packages
# are there. Installs what is missing where it may (apt-get, as root or by sudo,
# which asks for a password only where somebody is there to be asked); otherwise
# says what is missing and what for.
set -eu

# program PACKAGE: a program by which the package is known, and what it is for.
program() {
	case $1 in
	curl) echo "curl the tests claim with it" ;;
	mosquitto) echo "mosquitto the tests run the bridge against it" ;;
	mosquitto-clients) echo "mosquitto_rr the tests claim with it" ;;
	openssl) echo "openssl the tests make requests and judge certificates with it" ;;
	postgresql) echo "postgres the tests run the hub against it" ;;
	strace) echo "strace a test traces the fsync between claim and answer" ;;
	cc) echo "cc the race detector needs a C compiler" ;;
	shellcheck) echo "shellcheck make lint reads the scripts with it" ;;
	*) echo "$1 -" ;;
	esac
}

# Debian keeps daemons where only root looks, and PostgreSQL's where only its
# own scripts do.
PATH=$PATH:/usr/sbin:/sbin
for dir in /usr/lib/postgresql/*/bin; do
	PATH=$PATH:$dir
done

missing=
for package in "$@"; do
	about=$(program "$package")
	command -v "${about%% *}" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" -ne 0 ]; then
	root=none
	if command -v sudo >/dev/null 2>&1; then
		if sudo -n true 2>/dev/null; then
			root="sudo -n"
		elif [ -t 0 ] && [ -z "${CI:-}" ]; then
			root=sudo
		fi
	fi
fi
if [ "$root" = none ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "edgeclaim: missing programs, and no leave to install them:" >&2
	names=
	for package in $missing; do
		about=$(program "$package")
		echo "  ${about%% *}: ${about#* }" >&2
		if [ "$package" = cc ]; then package=gcc; fi
		names="$names $package"
	done
	echo "On Debian or Ubuntu: apt-get install$names" >&2
	exit 1
fi

install=
for package in $missing; do
	case $package in
	cc) install="$install gcc libc6-dev" ;;
	*) install="$install $package" ;;
	esac
done
echo "installing:$install"
# RUNLEVEL=1 keeps the package from starting its daemon: the tests start their
# own servers, and a broker on 1883 would be in the way of a box.
# The word lists are meant to split.
# shellcheck disable=SC2086
$root env DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null
# shellcheck disable=SC2086
$root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	apt-get -qq -y --no-install-recommends install $install </dev/null >/dev/null
for service in mosquitto postgresql; do
	case $install in
	*" $service"*)
		if [ -d /run/systemd/system ]; then
			$root systemctl --quiet disable --now "$service.service" || true
			echo "$service.service is left disabled: the tests start their own"
		fi
		;;
	esac
done
