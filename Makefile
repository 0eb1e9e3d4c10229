# coatcheck: what one does here. `make help` lists the targets.

GO            ?= go
GOLANGCI_LINT ?= $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# A worker in Node.js, with a lock file of its own.
NODE_EXAMPLE = api/worker/examples/node

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.PHONY: test
test: tools ## run all tests, with the race detector, on the embedded and on a real Redis
	$(GO) test -race -p 3 -timeout 9m $$($(GO) list ./... | grep -v -e /internal/broker$$ -e /internal/simulation$$)
	$(GO) test -timeout 9m ./internal/broker ./internal/simulation # Lua in an embedded Redis, mostly; what is concurrent in it, all of the others use

.PHONY: check
check: test vet lint verify ## what CI runs

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...

.PHONY: lint
lint: ## golangci-lint with the rules of .golangci.yml
	$(GOLANGCI_LINT) run ./...

.PHONY: generate
generate: ## write the generated files anew
	$(GO) generate ./...

.PHONY: verify
verify: ## fail where a generated file is out of step
	@before=$$(git status --porcelain; git diff); $(GO) generate ./... && $(GO) mod tidy && \
	after=$$(git status --porcelain; git diff); \
	if [ "$$before" != "$$after" ]; then git diff; echo "generated files are out of step: commit what 'make generate' writes"; exit 1; fi

.PHONY: dev
dev: ## run everything on this machine, nothing kept: http://localhost:8080/ui/
	$(GO) run ./cmd/coatcheck dev

.PHONY: browser
browser: ## the page in Chromium against the real binary (needs chromium and Node.js)
	cd web && npm ci --no-audit --no-fund && npm test

.PHONY: ledger
ledger: tools ## kill gateways, workers and Redis under load, 50 times, and count every request (SEED=n repeats)
	$(GO) test -count=1 -v -timeout 20m -run 'TestLedger$$' ./internal/ledger -full $(if $(SEED),-seed $(SEED))

.PHONY: soak
soak: tools ## 200 requests a second with faults, for half an hour: does anything grow? (MINUTES=n, SEED=n; PLANT=goroutines plants what does)
	cd internal/ledger && $(GO) test -count=1 -timeout 0 $(if $(PLANT),-run 'TestSoakPlants/$(PLANT)' -plant,-run 'TestSoak$$') -minutes $(or $(MINUTES),$(if $(PLANT),1,30)) $(if $(SEED),-seed $(SEED)) # here, so that lines come as they are written

.PHONY: powercut
powercut: tools ## cut the power of Redis under load, ten times a durability, and count what was accepted (strace; PLANT=1 must fail)
	@has() { command -v strace >/dev/null; }; has || { sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  command -v apt-get >/dev/null && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends strace >/dev/null 2>&1; \
	  has || { echo "make: powercut needs strace on Linux; install it (Debian: apt-get install strace)"; exit 1; }; }
	POWERCUT=1 POWERCUT_PLANT=$(PLANT) $(GO) test -count=1 -v -timeout 30m ./internal/powercut

.PHONY: faults
faults: tools ## break the network, Redis, workers and gateways, one line for each fault (SEED=n, RUN=part of its name; PLANT=1 plants bugs that they must show)
	cd internal/faults && $(GO) test -count=1 -timeout 40m -run '$(if $(PLANT),TestPlants,TestFaults)/$(RUN)' $(if $(PLANT),-plant,-full) $(if $(SEED),-seed $(SEED)) # here, so that lines come as they are written

.PHONY: cluster
cluster: tools ## the same in a Redis Cluster: slots migrate, masters go and replicas take over
	$(MAKE) --no-print-directory faults RUN=cluster
	$(GO) test -count=1 -v -timeout 20m -run 'TestLedger$$' ./internal/ledger -full -cluster $(if $(SEED),-seed $(SEED))

.PHONY: life
life: tools ## draw 2,000 histories of requests, and hold each to what is promised
	$(GO) test -count=1 -v -timeout 60m -run TestLifeOfARequest ./internal/broker -rapid.checks=2000

.PHONY: simulation
simulation: ## live the life of requests, gateways and stewards from 20,000 seeds, and hold each step to what is promised (SEEDS=n, SEED=n shows one)
	$(GO) test -count=1 -v -timeout 60m -run 'TestSimulation$$' ./internal/simulation -args -seeds $(or $(SEEDS),20000) -heals 16 -split $$(nproc 2>/dev/null || echo 2) $(if $(SEED),-seed $(SEED))

.PHONY: linear
linear: tools ## ask three gateways the same at once while connections break, for a minute, and look for an order that explains every answer (SEED=n)
	$(GO) test -count=1 -v -timeout 20m -run TestLinearizable ./internal/linear -args -lasts 60s $(if $(SEED),-seed $(SEED))

.PHONY: bench
bench: tools ## measure the gateway against floors and a peer; ARGS='-rows submit,sse -rounds 1' chooses
	$(GO) run ./internal/bench/versus $(ARGS)

.PHONY: scale
scale: tools ## how the cost of a call grows with records, services, partitions and waiters; ARGS='-rows records -most 100000' chooses
	$(GO) test -count=1 -v -timeout 20m ./internal/scale -full $(ARGS)

.PHONY: conformance
conformance: tools ## run every kind of worker through its duties, and show the tables
	$(GO) test -count=1 -v -run TestWorkersConform ./internal/conformance

# What the tests need beside Go: servers and clients that real users have.
.PHONY: tools
tools:
	@has() { command -v redis-server && command -v redis-cli && command -v node && command -v npm && command -v curl && \
	    { python3 -c 'import redis' || /usr/bin/python3 -c 'import redis'; }; } >/dev/null 2>&1; \
	  ready() { [ -d $(NODE_EXAMPLE)/node_modules/redis ] || npm ci --silent --no-audit --no-fund --prefix $(NODE_EXAMPLE); }; \
	  has && ready && exit; sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  command -v apt-get >/dev/null && { $$sudo apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends redis-server python3-redis curl \
	      $$(command -v npm >/dev/null || echo nodejs npm); } >/dev/null 2>&1; \
	  has && ready || { echo "make: the tests need redis-server 7 or newer, redis-cli, curl, python3 with redis-py, and Node.js with npm; install them (Debian: apt-get install redis-server python3-redis nodejs npm curl, macOS: brew install redis node && pip3 install redis)"; exit 1; }
