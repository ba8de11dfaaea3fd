# Everything a newcomer does; each target installs what it needs (scripts/install-deps).

CARGO ?= cargo
# Namespaces, daemons and probes share the machine: more tests at once make each other's timers late.
THREADS ?= 4
# Seconds per fuzz target.
FUZZ_TIME ?= 60
# Of `make soak`: so many networks, or as many as there is time for (seconds); the seed of the first.
SEEDS ?= 5000
TIME ?=
FIRST ?= $(shell date +%s)
# Of `make bench`: prefixes, runs of each daemon, route reflector clients; BENCH=--help shows what else there is.
ROUTES ?= 100000
RUNS ?= 1
PEERS ?= 500
# Of `make scale`.
AGENTS ?= 200

.DEFAULT_GOAL := help
.PHONY: help build deb image demo test lint soak scale bench fuzz

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## release binary: target/release/wayleave
	@scripts/install-deps build
	$(CARGO) build --release --locked

deb: ## Debian package of the release binary: target/debian/wayleave_VERSION_ARCH.deb
	@scripts/install-deps deb
	$(CARGO) build --release --locked
	@packaging/debian/build

image: ## container image for `docker load` or `podman load`: target/image/wayleave-image_VERSION_ARCH.tar
	@scripts/install-deps image
	$(CARGO) build --release --locked
	@packaging/image/build

demo: ## two racks, four ToRs, four hosts, in a minute (KEEP=1 leaves them up to look around)
	@scripts/install-deps demo
	$(CARGO) build --release --locked
	target/release/wayleave demo $(if $(KEEP),--keep)

test: ## all tests, with real BIRD, FRR and kernels; needs root
	@scripts/install-deps test
	RUST_TEST_THREADS=$(THREADS) $(CARGO) test --locked

lint: ## formatting and clippy, warnings are errors
	@scripts/install-deps build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

soak: ## whole networks on a virtual clock, new ones each time (SEEDS=20000, TIME=600, FIRST=42)
	@scripts/install-deps build
	CARGO_PROFILE_TEST_OPT_LEVEL=2 SIM_FIRST=$(FIRST) $(if $(TIME),SIM_SECONDS=$(TIME),SIM_SEEDS=$(SEEDS)) \
		$(CARGO) test --locked --test sim -- --nocapture whatever
	CARGO_PROFILE_TEST_OPT_LEVEL=2 LEASE_FIRST=$(FIRST) $(if $(TIME),LEASE_SECONDS=$(TIME),LEASE_SEEDS=$(SEEDS)) \
		$(CARGO) test --locked --test lease -- --nocapture no_subnet

scale: ## so many agents, one etcd, one machine: time, memory, mesh to reflectors (AGENTS=50); needs root
	@scripts/install-deps test
	AGENTS=$(AGENTS) $(CARGO) test --release --locked --test lab -- --ignored --nocapture so_many_agents

bench: ## the parts, then all of it beside BIRD and FRR (ROUTES=1000000 RUNS=3 PEERS=500); needs root
	@scripts/install-deps bench
	$(CARGO) bench --locked --bench wire --bench rib --bench netlink --bench traffic --bench scrape
	$(CARGO) bench --locked --bench rivals -- --routes $(ROUTES) --runs $(RUNS) --peers $(PEERS) $(BENCH)

fuzz: ## every fuzz target for FUZZ_TIME seconds; needs cargo-fuzz and a nightly toolchain
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "make fuzz: cargo-fuzz is missing (cargo install cargo-fuzz)" >&2; exit 1; }
	@set -e; for target in $$($(CARGO) +nightly fuzz list); do \
		$(CARGO) +nightly fuzz run "$$target" -- -max_total_time=$(FUZZ_TIME) -rss_limit_mb=1024; done
