# Slipway's build. `make demo` and `make test` do all set-up on a fresh Debian machine.
GO        ?= go
BIN       ?= bin
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TAGS      ?= seccomp
LDFLAGS    = -s -w -X main.version=$(VERSION)
PROGRAMS   = slipwayd slipway slipway-shim slipway-fuse
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
export PATH := $(CURDIR)/.cache/go/bin:$(PATH)
export GOFLAGS := $(GOFLAGS) -buildvcs=false

.PHONY: all setup build test unit race root e2e vm test-wine systemd lint vuln vet-windows bench bench-lazy bench-cri soak-lazy demo fuzz generate clean

all: build

setup:                 ## installs what building and testing need (Debian, root)
	@ci/setup

build:                 ## bin/slipwayd, bin/slipway, bin/slipway-shim, bin/slipway-fuse
	@SLIPWAY_SETUP=build ci/setup
	@mkdir -p $(BIN)
	@for p in $(PROGRAMS); do CGO_ENABLED=$$([ $$p = slipway-shim ] && echo 1 || echo 0) $(GO) build -tags "$(TAGS) netgo osusergo grpcnotrace nri_no_wasm" -ldflags "$(LDFLAGS) -extldflags=-static" -o $(BIN)/$$p ./cmd/$$p || exit 1; done

test: setup build vet-windows lint race e2e vm test-wine   ## everything CI runs

unit:                  ## fast: no race detector; tests that need root skip without it
	$(GO) test -tags "$(TAGS)" ./...

race:
	ci/test

root: race             ## the same tests; run as root they skip nothing

e2e: build             ## real clients (ctr, the containerd Go client, slipway) against bin/slipwayd
	cd testsuite/e2e && SLIPWAY_BIN=$(abspath $(BIN)) $(GO) test -count=1 ./...

vm: build              ## the executor's suite where cgroup v2 is the only hierarchy
	ci/test-cgroup2

test-wine: build       ## Windows code and programs under wine, over a simulator of the container services (testsuite/hcssim)
	ci/test-wine

systemd:               ## all of that suite where systemd makes the cgroups; vm runs a part of it
	ci/test-cgroup2 systemd

vet-windows:
	GOOS=windows CGO_ENABLED=0 $(GO) build ./... && GOOS=windows CGO_ENABLED=0 $(GO) vet ./...

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these"; exit 1; }
	$(GO) vet -tags "$(TAGS)" ./...
	$(GO) run $(STATICCHECK) -tags "$(TAGS)" ./...

vuln:                  ## needs to reach vuln.go.dev
	$(GO) run $(GOVULNCHECK) -tags "$(TAGS)" ./...

bench: build           ## peers side by side in the same run; prints the README's table
	ci/bench

bench-cri: build       ## pods of Slipway and containerd: rate, memory, ExecSync, relist
	ci/bench-cri

bench-lazy: build      ## lazy starts of Slipway and peers over a slow line; prints the README's tables
	ci/bench-lazy

soak-lazy: build       ## the long versions of tests of lazy layers: 100 kills of server, keeper and daemon, 300 cycles
	ci/soak-lazy

demo: build            ## from nothing to hello out of a container, without internet
	ci/demo

fuzz:                  ## each fuzzer for FUZZTIME (default 30s)
	ci/fuzz

generate:              ## api/slipway/v1 from its .proto
	ci/generate

clean:
	rm -rf $(BIN)

PREFIX ?= /usr/local
.PHONY: install
install: build         ## programs to $(PREFIX)/bin and the systemd unit
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(addprefix $(BIN)/,$(PROGRAMS))
	install -D -m 0644 dist/slipwayd.service $(DESTDIR)$(PREFIX)/lib/systemd/system/slipwayd.service
