# Everything here needs Go, git and make, nothing else; what a target needs
# beyond them it installs where it may, or names.

GO        ?= go
HTTP      ?= 127.0.0.1:8080
MQTT      ?= 127.0.0.1:1883
ADMIN     ?= 127.0.0.1:9090
DATA      ?= var
FUZZTIME  ?= 10s
BENCH     ?= .
BENCHTIME ?= 1s
COUNT     ?= 6
PACKAGES  ?= ./...

# nomsgpack takes a third off the binary; gin uses it for nothing we serve.
TAGS      := nomsgpack
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# The commit's date, not today's: the same commit gives the same binary, and the
# date is the first floor under the box's clock (P10).
BUILT     := $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS   := -s -w -X main.version=$(VERSION) -X main.built=$(BUILT)
# The tests run what is shipped: no C anywhere.
GOTEST    := CGO_ENABLED=0 $(GO) test -tags $(TAGS)
RACETEST  := CGO_ENABLED=1 $(GO) test -tags $(TAGS) -race
# What a test needs and does not find is a failure here, elsewhere a skip.
REQUIRED  := EDGECLAIM_REQUIRE_MOSQUITTO=1 EDGECLAIM_REQUIRE_POSTGRES=1
TOOL      := $(GO) tool -modfile=tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help build run demo tryout test test-all race lint vet fuzz vuln bench check tools clean need

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

need:
	@GO="$(GO)" scripts/need.sh

build: need ## bin/edgeclaim, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

run: build ## start a box in ./var with a sample key, and print the lines that claim
	@exec env HTTP="$(HTTP)" MQTT="$(MQTT)" ADMIN="$(ADMIN)" DATA="$(DATA)" scripts/run.sh

demo: build ## edgehub and two boxes on loopback: claims while the link is cut, then one list
	@scripts/packages.sh mosquitto
	@scripts/demo.sh

tryout: need ## do what README.md tells a newcomer: make run, paste its lines, stop
	@scripts/packages.sh curl mosquitto mosquitto-clients
	@scripts/tryout.sh

test: need ## the core tests, against a real Mosquitto and PostgreSQL (under 10 minutes)
	@scripts/packages.sh curl mosquitto mosquitto-clients openssl postgresql
	$(REQUIRED) $(GOTEST) -short -timeout 10m $(PACKAGES)

test-all: need ## every test: crash storms, full disks, system call traces, a million devices
	@scripts/packages.sh curl mosquitto mosquitto-clients openssl postgresql strace
	$(REQUIRED) $(GOTEST) -count=1 -timeout 30m $(PACKAGES)

race: need ## the core tests under the race detector (needs a C compiler)
	@scripts/packages.sh curl mosquitto mosquitto-clients openssl postgresql cc
	$(REQUIRED) $(RACETEST) -short -timeout 20m $(PACKAGES)

vet: need ## gofmt and go vet
	@scripts/fmt.sh
	$(GO) vet -tags $(TAGS) $(PACKAGES)

lint: need vet ## golangci-lint (its first build takes two minutes), and shellcheck if there is one
	$(TOOL) golangci-lint run $(PACKAGES)
	@scripts/shellcheck.sh

fuzz: need ## every fuzz target for FUZZTIME (10s)
	@GO="$(GO)" TAGS="$(TAGS)" FUZZTIME="$(FUZZTIME)" scripts/fuzz.sh

vuln: need ## known vulnerabilities in what is compiled in
	@GO="$(GO)" TAGS="$(TAGS)" scripts/vuln.sh

bench: need ## benchmarks (BENCH=regexp COUNT=6 BENCHTIME=1s), summed up by benchstat
	@GO="$(GO)" TAGS="$(TAGS)" BENCH="$(BENCH)" BENCHTIME="$(BENCHTIME)" COUNT="$(COUNT)" scripts/bench.sh $(PACKAGES)

check: lint test race vuln ## what has to pass before a change goes in
	@$(MAKE) --no-print-directory fuzz FUZZTIME=5s

tools: need ## build the pinned tools once, so that lint, bench and vuln start quickly
	$(TOOL) golangci-lint version
	@$(TOOL) -n benchstat >/dev/null
	@$(TOOL) -n govulncheck >/dev/null

clean: ## remove bin/ and benchmark results; ./var, the sample box, stays
	rm -rf bin bench.out
