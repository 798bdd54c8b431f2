# The targets a person needs. "make test" is also what .ci/run runs.

.DEFAULT_GOAL := build
.PHONY: build test quick guards sim model fuzz bench-mirror bench-growth bench-failover bench-page bench-vm soak fmt schema pictures man tools

build: ## dist/revolve, static
	CGO_ENABLED=0 go build -trimpath -o dist/revolve ./cmd/revolve

.PHONY: packages test-packages
packages: ## the Debian package and the tarball into dist/packages (ARCH=arm64 for another machine)
	./scripts/package.sh dist/packages

test-packages: ## install, run, upgrade and remove the package on three bare Debian systems (root; 5 minutes; RUN=TestInstall for a part)
	./scripts/package-test.sh $(RUN)

.PHONY: first-hour test-services
first-hour: ## every command of the README's "Make a cluster" on three bare Debian systems, timed, into bench/HOUR.md (root; 3 minutes)
	REVOLVE_HOUR=$(CURDIR)/bench/HOUR.md ./scripts/package-test.sh TestFirstHour

test-services: build ## what clients of Samba, NFS, sshfs and WireGuard lose at planned switches, power cuts, kill -9 and a full disk, into bench/SERVICES.md; clocks that are set (root; 6 minutes)
	./scripts/test.sh services

.PHONY: test-power
test-power: build ## a schedule wakes a node, copies a machine to it, and has it power itself off (root; 2 minutes)
	REVOLVE_WOKEN=1 REVOLVE_BIN=$(CURDIR)/dist/revolve go test -count=1 -v -run '^TestVMWoken$$' ./test/stories

test: ## everything; as root it installs what the tests need
	./scripts/test.sh

quick: ## house rules and unit tests only
	./scripts/test.sh format vet tidy unit

guards: ## take each promise's guard out and see its story fail (root; some minutes)
	REVOLVE_GUARDS=1 go test -count=1 -v -timeout 30m ./test/guards

sim: ## a million fault schedules of the election into bench/SIM.md, small clusters exhaustively, and planted bugs (an hour on two cores)
	mkdir -p bench
	REVOLVE_SEEDS=1000000 REVOLVE_SECONDS=36000 REVOLVE_REPORT=$(CURDIR)/bench/SIM.md nice -n 19 go test -count=1 -timeout 0 -v -run '^TestSchedules$$' ./internal/failover/election
	REVOLVE_DEPTH=1 nice -n 19 go test -count=1 -timeout 0 -v -run '^TestExhaustive$$' ./internal/failover/election
	REVOLVE_MUTANTS=1 nice -n 19 go test -count=1 -timeout 0 -v -run '^TestMutants$$' ./internal/failover/election

model: ## storms of programs, partitions, kills and promotions on 3 to 5 nodes against a model in memory, into bench/MODEL.md (MODEL_STORMS=7000, a million steps; an hour)
	printf '# The mirror against a model\n\nMade by `make model`: `TestModel` of `internal/mirror` says what is played and what must hold.\n\n' >bench/MODEL.md
	for late in "" 1; do REVOLVE_MODEL_LATE=$$late REVOLVE_MODEL_SPLITS=1 REVOLVE_MODEL_DIRS=1 REVOLVE_SEEDS=$$(( $(or $(MODEL_STORMS),7000) / ($${late:-0} * 9 + 1) )) REVOLVE_REPORT=$(CURDIR)/bench/MODEL.md nice -n 19 go test -count=1 -timeout 0 -v -run '^TestModel$$' ./internal/mirror; done

bench-mirror: build ## the mirror beside its peers, into bench/RESULTS.md (root; 25 minutes; ROWS=create RUNS=1 for a part)
	CGO_ENABLED=0 go build -trimpath -o dist/bench-mirror ./bench/mirror
	REVOLVE_BIN=$(CURDIR)/dist/revolve dist/bench-mirror

bench-growth: build ## how the mirror's cost grows with files and standbys, into bench/RESULTS.md (root; 20 minutes; ROWS=files10k for a part)
	CGO_ENABLED=0 go build -trimpath -o dist/bench-mirror ./bench/mirror
	WRITE=1 ROWS=$(or $(ROWS),growth) REVOLVE_BIN=$(CURDIR)/dist/revolve dist/bench-mirror

bench-failover: build ## what a client sees while the address moves, beside keepalived, into bench/FAILOVER.md (root; some hours; ROWS=power-cut RUNS=5 for a part)
	CGO_ENABLED=0 go build -trimpath -o dist/bench-failover ./bench/failover
	REVOLVE_BIN=$(CURDIR)/dist/revolve dist/bench-failover

bench-page: ## what the status page costs a node with fifty clients (2 minutes; ROWS=follow for a part)
	CGO_ENABLED=0 go build -trimpath -o dist/bench-page ./bench/page
	dist/bench-page

bench-vm: ## points of virtual machines beside rsync, into bench/VM.md (root; 40 GiB of disk; half an hour; ROWS=xfs4 RUNS=1 for a part)
	CGO_ENABLED=0 go build -trimpath -o dist/bench-vm ./bench/vm
	dist/bench-vm

soak: build ## a day of faults on four nodes in half an hour, clients all the time, into bench/SOAK.md (root; SOAK=3m for a part, SEED=N for the same faults again)
	CGO_ENABLED=0 go build -trimpath -o dist/soak ./bench/soak
	REVOLVE_BIN=$(CURDIR)/dist/revolve dist/soak

fuzz: ## every fuzz target for FUZZTIME (30s), those that match FUZZ if it is set
	nice ./scripts/fuzz.sh $(or $(FUZZTIME),30s) $(FUZZ)

fmt: ## format all Go source
	gofmt -w bench cmd internal test

pictures: ## take the documentation's pictures of the status page anew, into docs/images (chromium)
	REVOLVE_PICTURES=$(CURDIR)/docs/images go test -count=1 -run '^TestPictures$$' ./test/page

schema: ## write docs/*.schema.json anew from the types
	go test ./internal/config -run TestSchema -update
	UPDATE_SCHEMA=1 go test ./internal/control -run TestPublishedSchema

man: build ## write the manual pages to dist/man
	./dist/revolve man --out dist/man

tools: ## say what the tests need and this machine lacks
	./scripts/test.sh tools
