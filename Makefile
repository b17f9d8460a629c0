# Everything a person needs, by name. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
GO ?= go
BIN := dist
# The machine's packages that tests and the demo need (Debian 12 names).
PACKAGES := softhsm2 libnss3 libnss3-tools opensc-pkcs11 openssl sqlite3 postgresql strace gcc libc6-dev ca-certificates
TOOL := $(GO) tool -modfile=tools.mod

BALANCER := haproxy

.PHONY: help vaultdev demo demo-rogue demo-rotation demo-cluster test check race fuzz bench setup build tear audit-tamper audit-canary audit-crash bench-audit bench-keys bench-cards bench-nodes bench-timing test-long test-pcsc test-opencryptoki package test-package test-image check-alerts clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 19

# install installs the Debian packages of its argument that are missing.
define install
	@missing=; for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  command -v apt-get >/dev/null || { echo "cardkms: please install:$$missing"; exit 1; }; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "cardkms: installing$$missing"; \
	  $$sudo apt-get update -q && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -q --no-install-recommends $$missing; \
	fi
endef

setup: ## install what the tests and the demo need (Debian packages; asks nothing)
	$(call install,$(PACKAGES))

# number tells a program what it was built from.
number = -X cardkms/deploy/version.number=$(1)

build: ## build the three programs into dist/
	$(GO) build -trimpath -ldflags '$(call number,$(shell git describe --always --dirty 2>/dev/null))' -o $(BIN)/ ./cmd/...

demo: setup build ## update a simulated card, with its power cut three times
	$(BIN)/cardkms-demo

demo-rogue: setup build ## an administrator of the database attacks it, ten times
	$(BIN)/cardkms-demo rogue

demo-rotation: setup build ## officers replace a master key (one proposes, two sign), and 1,000 cards move while their power fails
	$(BIN)/cardkms-demo rotation

demo-cluster: setup build ## the same with three nodes, PostgreSQL and a load balancer, which are killed meanwhile
	$(call install,$(BALANCER))
	$(BIN)/cardkms-demo cluster

# The Vault server that tests run is built once per machine; it takes minutes.
vaultdev:
	$(GO) test ./kms/vault/vaulttest -run '^TestBuild$$' -count 1 -timeout 30m

test: setup vaultdev ## every test of the default suite
	$(GO) vet ./...
	$(GO) test ./...
	cd deploy/kubernetes/check && $(GO) test ./...

race: setup vaultdev ## the default suite under the race detector
	$(GO) test -race ./...

check: ## format, vet, lint and the module's tidiness
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w'; exit 1; }
	$(GO) vet ./... && $(GO) vet -tags bench ./...
	$(GO) mod tidy -diff
	$(TOOL) golangci-lint run ./...

FUZZTIME ?= 20s
fuzz: setup ## each fuzz target for FUZZTIME (20s)
	@set -e; $(GO) list ./... | while read -r p; do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "$$p $$f"; $(GO) test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME); \
	  done; done

bench: setup build ## cost beside the bare PKCS#11 calls, in one run
	$(GO) test -tags bench ./cmd/cardkmsd -run "^TestBench$$" -count 1 -timeout 20m -v | grep -E "^(All|bare|REST|---|    bench)"

tear: ## cut a card's power at every memory write of two updates, and count
	$(GO) test ./softhsm/cardsim -run '^TestSweep$$' -count 1 -v | grep -vE '^=== '

STRIDE ?= 1
audit-tamper: ## flip every bit of an exported audit log, and count (STRIDE=50 for every 50th)
	CARDKMS_TAMPER_STRIDE=$(STRIDE) $(GO) test ./audit/tiles -run '^TestTamper' -count 1 -timeout 60m -v | grep -vE '^=== '

audit-canary: ## show that the tamper suite can fail: a verifier with a seeded bug
	@out=$$($(GO) test -tags canary_tamper ./audit/tiles -run '^TestTamper' -count 1 2>&1) && { echo "$$out"; echo 'the seeded bug was NOT found'; exit 1; }; \
	grep -q '^--- FAIL: TestTamper' <<<"$$out" || { echo "$$out"; exit 1; }; \
	grep '^--- FAIL' <<<"$$out"; echo 'the seeded bug was found'

audit-crash: setup ## kill or fail the audit log at every change of a file, and count
	CARDKMS_CRASH=1 $(GO) test ./kms/ledger/crashtest -count 1 -timeout 60m -v | grep --line-buffered -vE '^=== '

bench-audit: setup ## what an entry of the audit log costs, beside bare inserts, at growing sizes
	$(GO) test -tags bench ./kms/ledger -run '^TestBenchAudit$$' -count 1 -timeout 120m -v | grep --line-buffered -vE '^(=== |PASS)'

bench-keys: setup ## what moving a card to new keys costs, and the registry as it grows (CARDKMS_LONG=1 for a million cards)
	$(GO) test -tags bench ./kms -run '^TestBenchKeys$$' -count 1 -timeout 120m -v | grep -vE '^(=== |PASS)'

bench-cards: setup ## what the service adds to the token for EMV and for prepared scripts
	$(GO) test -tags bench ./kms -run '^TestBenchCards$$' -count 1 -v | grep -vE '^(=== |PASS)'

bench-nodes: setup vaultdev ## what a request costs on SQLite, PostgreSQL and three nodes, an entry of their log, and Vault beside it
	$(GO) test -tags bench ./cmd/cardkmsd -run '^TestBenchNodes$$' -count 1 -timeout 30m -v | grep -vE '^(=== |PASS)'
	$(GO) test -tags bench ./kms/ledger -run '^TestBenchPostgres$$' -count 1 -timeout 30m -v | grep -vE '^(=== |PASS)'

bench-timing: setup ## whether a cryptogram that is nearly right is refused later (CARDKMS_LONG=1 for 100,000 samples)
	$(GO) test -tags bench ./kms ./cmd/cardkmsd -run '^TestBenchTiming$$' -count 1 -timeout 60m -v | grep -vE '^(=== |PASS)'

test-long: setup vaultdev ## all pairs of power cuts and other long suites
	CARDKMS_LONG=1 $(GO) test -timeout 60m ./softhsm/cardsim ./kms/... ./cmd/cardkmsd

PCSC := pcscd vsmartcard-vpcd opensc iproute2
check-alerts: ## have promtool read the alert rules (installs the Debian package prometheus)
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends prometheus >/dev/null
	promtool check rules deploy/prometheus/alerts.yaml

test-pcsc: ## the simulated card behind a real PC/SC reader (root; its own network namespace)
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(PCSC) >/dev/null
	-ip netns add cardkms-vpcd 2>/dev/null
	ip -n cardkms-vpcd link set lo up
	ip netns exec cardkms-vpcd $(GO) test -tags pcsc ./softhsm/cardsim -run '^TestPCSC$$' -count 1 -v; \
	  status=$$?; ip netns del cardkms-vpcd; exit $$status

test-opencryptoki: setup ## a token that can derive nothing inside is named and refused (root; its own namespaces)
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends opencryptoki >/dev/null
	softhsm/testtoken/opencryptoki.sh $(GO) test -tags opencryptoki ./kms/hsm ./cmd/cardkmsd -run 'Opencryptoki$$' -count 1 -v

VERSION ?= 0.1.0
PACKAGE := $(BIN)/package
package: setup ## the Debian package, with manual pages and a bill of materials
	rm -rf $(PACKAGE) && mkdir -p $(PACKAGE)/man
	$(GO) build -trimpath -buildmode=pie -ldflags '-s -w $(call number,$(VERSION))' -o $(PACKAGE)/ ./cmd/cardkmsd ./cmd/cardkms
	$(PACKAGE)/cardkmsd man $(PACKAGE)/man && $(PACKAGE)/cardkms man $(PACKAGE)/man
	gzip -9n $(PACKAGE)/man/*.1 && gzip -9nc CHANGELOG.md > $(PACKAGE)/NEWS.gz
	printf 'cardkms ($(VERSION)) unstable; urgency=medium\n\n  * See NEWS.md.\n\n -- The cardkms authors <maintainers@cardkms.dev>  %s\n' "$$(date -R -d @$$(git log -1 --format=%ct))" | gzip -9n > $(PACKAGE)/changelog.gz
	$(GO) run ./deploy/sbom $(PACKAGE)/cardkmsd $(PACKAGE)/cardkms > $(PACKAGE)/cardkms.cdx.json
	ARCH=$$(dpkg --print-architecture) VERSION=$(VERSION) $(TOOL) nfpm package --config deploy/package/nfpm.yaml --packager deb --target $(BIN)/

test-package: package build ## the package in a fresh Debian root: installed, its unit run by systemd, one update done, removed (root)
	$(call install,debootstrap lintian systemd)
	deploy/package/test.sh $(BIN)/cardkms_$(VERSION)_$$(dpkg --print-architecture).deb $(BIN)/cardkms-demo

test-image: build ## the container image: built, and one update done in it (root)
	$(call install,buildah debootstrap)
	deploy/package/image.sh $(BIN)/cardkms-demo

clean: ## remove what was built
	rm -rf $(BIN)
