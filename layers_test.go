package cardkms_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"sort"
	"strings"
	"testing"
)

// policy says which of our packages a package may import, in production code.
// It is a decision, not a description: a line that is wider than the code needs
// is wrong, and a change of a line is argued in the commit that makes it.
//
//	programs        cmd/cardkmsd             cmd/cardkms               cmd/cardkms-demo
//	front doors     api/server               api/client                softhsm  softhsm/cardsim
//	service         kms  kms/probe
//	state machines  kms/update   kms/channel   kms/approval   kms/ledger   kms/report   kms/explain → kms/profile kms/cardkey
//	specifications  derive/scp11 → derive/scp03 derive/scp02 derive/diversify → derive    audit/tiles audit/witness → audit
//	vocabulary      kms/apdu → kms/fault   kms/key   kms/secret   kms/store   api
//	adapters        kms/hsm  kms/tokens  kms/vault  kms/store/sqlite  kms/store/postgres: vocabulary and the interfaces that they satisfy
var policy = map[string][]string{
	"kms/fault":  {},
	"kms/key":    {},
	"kms/secret": {},
	"kms/store":  {},
	"kms/apdu":   {"kms/fault"},
	"api":        {},

	"audit": {},
	// An auditor or a witness builds these from audit alone.
	// One way to keep a file over a power cut, for whoever keeps files: it knows paths and
	// bytes, nothing else.
	"audit/durable":    {},
	"audit/tiles":      {"audit", "audit/durable"},
	"audit/witness":    {"audit", "audit/durable"},
	"audit/statemap":   {},
	"derive":           {"kms/key"},
	"derive/diversify": {"derive", "kms/fault", "kms/key"},
	"derive/scp03":     {"derive", "kms/apdu", "kms/fault", "kms/key"},
	// As scp03, and not on it: the two share no formula, and one must be removable
	// without touching the other.
	"derive/scp02": {"derive", "kms/apdu", "kms/fault", "kms/key"},

	// It authenticates otherwise, and then secures messages as SCP03 does: that is not
	// written twice.
	"derive/scp11": {"derive", "derive/scp03", "kms/apdu", "kms/fault", "kms/key"},

	"derive/emv": {"derive", "kms/apdu", "kms/fault", "kms/key"},
	// What a packet carries is nothing to it: it knows no APDU.
	"derive/scp80": {"derive", "kms/fault", "kms/key"},

	// derivetest holds plain keys: only tests may import it, see below.
	"derive/derivetest": {"derive", "kms/apdu", "kms/key"},

	// One state machine for all protocols: what may follow what is the same in them.
	"kms/channel":  {"derive", "derive/scp02", "derive/scp03", "derive/scp11", "kms/apdu", "kms/fault"},
	"kms/approval": {"kms/fault"},
	// An officer's key is a file or an agent: what it signs is not its business.
	"kms/approval/officerkey": {},
	"kms/update":              {"derive", "kms/apdu", "kms/fault", "kms/key"},
	"kms/report":              {"audit", "kms/key"},
	// A card profile is what a channel and a package need to know of a card, and its known
	// answers are run by the code that serves cards: so it sees the protocols and the
	// channel, and no row, log or clock.
	"kms/profile": {"derive", "derive/diversify", "derive/scp02", "derive/scp03", "derive/scp11", "kms/apdu", "kms/channel", "kms/fault", "kms/key", "kms/update"},
	// It turns a version of the service into references of derive, so it sees every protocol
	// whose keys follow from one, and neither rows nor tokens.
	"kms/cardkey": {"derive", "derive/diversify", "derive/emv", "derive/scp02", "derive/scp03", "derive/scp80", "kms/key"},
	// It goes again, with other keys and in other ways, through what channels and transactions
	// prove, so it sees the same specifications as the service; it has no row, log, clock or
	// caller, and does not know that what it is asked was approved.
	"kms/explain": {"derive", "derive/diversify", "derive/emv", "derive/scp02", "derive/scp03", "kms/apdu", "kms/cardkey", "kms/fault", "kms/key", "kms/profile"},
	// crashtest is tests and nothing else.
	"kms/ledger/crashtest": {},
	// kmstest watches what goes on beside a test, and knows nothing of it.
	"kms/kmstest": {},
	"kms/ledger":  {"audit", "audit/durable", "audit/statemap", "audit/witness", "kms/fault", "kms/store"},

	"kms": {"audit", "derive", "derive/diversify", "derive/emv", "derive/scp02", "derive/scp03", "derive/scp11", "derive/scp80", "kms/apdu", "kms/approval", "kms/cardkey", "kms/channel",
		"kms/explain", "kms/fault", "kms/key", "kms/ledger", "kms/profile", "kms/report", "kms/store", "kms/update"},

	// probe runs published answers through the code that serves cards, so it sees
	// the same specifications as the service; it has no store, log or caller.
	"kms/probe": {"derive", "derive/diversify", "derive/emv", "derive/scp02", "derive/scp03", "derive/scp80", "kms/apdu", "kms/fault",
		"kms/key", "kms/secret", "kms/update"},

	// ceremony reads what people wrote and combines what they entered; what is done with
	// it is the program's, because it needs a token. It knows the service for what a new key
	// version is.
	"kms/ceremony": {"audit/durable", "derive/diversify", "kms", "kms/cardkey", "kms/fault", "kms/key", "kms/profile", "kms/secret"},
	// keywrap and tr31 hold clear keys: no package of the service imports them, only the
	// client's offline tool.
	"kms/keywrap": {"kms/secret"},
	"kms/tr31":    {"derive", "kms/key", "kms/secret"},

	"kms/hsm": {"derive", "kms/apdu", "kms/fault", "kms/key", "kms/secret"},
	// tokens routes by the name in a key; which tokens there are is the program's to say.
	"kms/tokens": {"derive", "kms/fault", "kms/key"},
	// relational is what the two databases share, so that one SQL text serves both; it
	// imports no driver.
	"kms/store/relational": {"kms/store"},
	"kms/store/sqlite":     {"kms/store", "kms/store/relational"},
	"kms/store/postgres":   {"kms/store", "kms/store/relational"},
	// Files, and nothing that imports them is needed to read them.
	"deploy":      {},
	"deploy/sbom": {},
	// What a program was built from, which the linker says in one place for all of them.
	"deploy/version": {},
	// throwaway runs a server and speaks no SQL itself: tests and the demonstration use it.
	"kms/store/postgres/throwaway": {},
	"kms/store/storetest":          {"kms/store"},
	"kms/vault":                    {"kms/secret"},
	// vaulttest runs a server, and a database for it, and asks it as its administrator.
	"kms/vault/vaulttest": {"kms/store/postgres/throwaway"},

	"api/server": {"api", "derive/emv", "derive/scp03", "kms", "kms/apdu", "kms/approval", "kms/fault", "kms/key", "kms/profile", "kms/report", "kms/update"},
	"api/client": {"api"},

	"softhsm":         {},
	"softhsm/cardsim": {}, // shares nothing with the host side
	// faulty is a PKCS#11 module in C that fails on purpose, and knows nothing of the adapter.
	"softhsm/faulty": {},
	// testtoken opens real tokens for tests, so it needs the adapter.
	"softhsm/testtoken": {"kms/hsm", "kms/secret", "softhsm"},

	// suggest says which command was meant, for both programs.
	"cmd/suggest": {},

	"cmd/cardkmsd": {"api/server", "audit", "audit/durable", "audit/tiles", "audit/witness", "cmd/suggest", "deploy/version", "derive", "kms", "kms/approval", "kms/approval/officerkey", "kms/cardkey", "kms/ceremony", "kms/channel",
		"kms/fault", "kms/hsm", "kms/key", "kms/ledger", "kms/probe", "kms/profile", "kms/report", "kms/secret", "kms/store", "kms/store/postgres", "kms/store/sqlite", "kms/tokens", "kms/vault", "softhsm"},
	// The client holds no key and links no PKCS#11: update is for the statement that
	// a release key signs and the commands that ask a card for its status; approval is
	// for what an officer signs, and for judging it in a log; ceremony reads the file that an
	// officer signs as the program does that runs it, and profile a card profile as the
	// service does; key, keywrap, secret and tr31 are for
	// its offline tool, which is told apart from the client in its help.
	"cmd/cardkms": {"api", "api/client", "audit", "audit/durable", "audit/tiles", "audit/witness", "cmd/suggest", "deploy/version", "kms/approval", "kms/approval/officerkey", "kms/ceremony", "kms/key", "kms/keywrap", "kms/profile", "kms/secret", "kms/tr31", "kms/update", "kms/report"},
	// The demonstration runs what is deployed.
	"cmd/cardkms-demo": {"deploy", "kms/store/postgres/throwaway", "softhsm/cardsim"},
}

// testsOnly are packages that production code never imports, whatever the policy
// says of what they import themselves.
var testsOnly = []string{"derive/derivetest", "kms/store/storetest", "softhsm/faulty", "softhsm/testtoken", "kms/kmstest", "kms/vault/vaulttest"}

// confined says which packages may import a dependency.
var confined = map[string][]string{
	"github.com/miekg/pkcs11":          {"kms/hsm"},
	"github.com/go-chi/chi/v5":         {"api/server"},
	"github.com/danielgtaylor/huma/v2": {"api/server"},
	"modernc.org/sqlite":               {"kms/store/sqlite"},
	"github.com/jackc/pgx/v5":          {"kms/store/postgres"},
	"github.com/hashicorp/vault":       {"kms/vault", "kms/vault/vaulttest"},
	"github.com/Shopify/toxiproxy/v2":  {"kms/vault/vaulttest"},
	"github.com/pressly/goose/v3":      {"kms/store/sqlite", "kms/store/postgres"},
	"github.com/spf13/cobra":           {"cmd/cardkms", "cmd/cardkmsd", "cmd/suggest"},
	"golang.org/x/crypto":              {"kms/approval/officerkey"},
	"github.com/coreos/go-oidc/v3":     {"cmd/cardkmsd"},
	// What is measured is told by hooks and getters in the words of each package; how it is
	// published is the program's.
	"github.com/prometheus": {"cmd/cardkmsd"},
	"go.opentelemetry.io":   {"cmd/cardkmsd"},
	"golang.org/x/mod":      {"audit", "audit/tiles", "audit/witness", "kms", "kms/ledger", "kms/store/relational", "api/server", "cmd/cardkms", "cmd/cardkmsd"},
}

type listed struct {
	ImportPath string
	Imports    []string
	DepsErrors []struct{ Err string }
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,DepsErrors", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

const module = "cardkms"

// short returns the path of a package of ours below the module, and whether it
// is one.
func short(path string) (string, bool) {
	return strings.CutPrefix(path, module+"/")
}

func TestLayers(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name, ours := short(p.ImportPath)
		if !ours {
			continue
		}
		seen[name] = true
		allowed, known := policy[name]
		if !known {
			t.Errorf("%s is not in the policy", name)
			continue
		}
		used := map[string]bool{}
		for _, imp := range p.Imports {
			checkImport(t, name, imp, allowed, used)
		}
		for _, a := range allowed {
			if !used[a] {
				t.Errorf("the policy lets %s import %s, which it does not", name, a)
			}
		}
	}
	for name := range policy {
		if !seen[name] {
			t.Errorf("the policy speaks of %s, which does not exist", name)
		}
	}
}

func checkImport(t *testing.T, name, imp string, allowed []string, used map[string]bool) {
	t.Helper()
	for dep, by := range confined {
		if (imp == dep || strings.HasPrefix(imp, dep+"/")) && !slices.Contains(by, name) {
			t.Errorf("%s imports %s, which is confined to %s", name, imp, strings.Join(by, ", "))
		}
	}
	of, ours := short(imp)
	if !ours {
		return
	}
	used[of] = true
	if slices.Contains(testsOnly, of) {
		t.Errorf("%s imports %s, which is for tests", name, of)
	}
	if !slices.Contains(allowed, of) {
		t.Errorf("%s imports %s; the policy allows %s", name, of, strings.Join(sorted(allowed), ", "))
	}
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	sort.Strings(s)
	return s
}

// TestClientLinksNoPKCS11 keeps the officers' program free of tokens: it must
// run on any machine, without cgo.
func TestClientLinksNoPKCS11(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/cardkms").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, dep := range strings.Fields(string(out)) {
		if strings.HasPrefix(dep, "github.com/miekg/pkcs11") {
			t.Errorf("cmd/cardkms links %s", dep)
		}
	}
}
