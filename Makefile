# The targets a person needs. "make test" is also what .ci/run runs.

.DEFAULT_GOAL := build
.PHONY: build test quick fmt schema tools

build: ## dist/revolve, static
	CGO_ENABLED=0 go build -trimpath -o dist/revolve ./cmd/revolve

test: ## everything; as root it installs what the tests need
	./scripts/test.sh

quick: ## house rules and unit tests only
	./scripts/test.sh format vet tidy unit

fmt: ## format all Go source
	gofmt -w cmd internal test

schema: ## write docs/*.schema.json anew from the types
	go test ./internal/config -run TestSchema -update
	UPDATE_SCHEMA=1 go test ./internal/control -run TestPublishedSchema

tools: ## say what the tests need and this machine lacks
	./scripts/test.sh tools
