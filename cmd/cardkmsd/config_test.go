package main

import (
	"crypto/ed25519"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"cardkms/audit"
)

func TestExampleConfiguration(t *testing.T) {
	c, err := load("../../deploy/cardkms.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c.Development {
		t.Error("the example for production allows SoftHSM2")
	}
}

// TestKubernetesConfiguration: the pods share one file, and each has its name.
func TestKubernetesConfiguration(t *testing.T) {
	b, err := os.ReadFile("../../deploy/kubernetes/cardkms.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cardkms.yaml")
	text := strings.Replace(string(b), "&sslrootcert=/run/tls/ca.crt", "", 1) // that file is in the pod
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CARDKMS_NODE", "cardkms-2")
	c, err := load(path)
	if err != nil || c.Node != "cardkms-2" || c.Development {
		t.Errorf("node %q, %v", c.Node, err)
	}
	t.Setenv("CARDKMS_NODE", "")
	if _, err := load(path); err == nil {
		t.Error("a node without a name")
	}
}

func TestConfigurationIsStrict(t *testing.T) {
	b, err := os.ReadFile("../../deploy/cardkms.yaml")
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	for name, change := range map[string]func(string) string{
		"an unknown field":        func(s string) string { return s + "\nsurprise: 1\n" },
		"a field twice":           func(s string) string { return s + "\nlisten: 127.0.0.1:1\n" },
		"an unknown nested field": func(s string) string { return strings.Replace(s, "  sessions: 8", "  sesions: 8", 1) },
		"no listen":               func(s string) string { return strings.Replace(s, "listen: 0.0.0.0:8443", "listen: ''", 1) },
		"a listen without a host": func(s string) string { return strings.Replace(s, "listen: 0.0.0.0:8443", "listen: '8443'", 1) },
		"a port too high":         func(s string) string { return strings.Replace(s, "listen: 0.0.0.0:8443", "listen: 0.0.0.0:99999", 1) },
		"metrics at no port":      func(s string) string { return strings.Replace(s, "admin: 127.0.0.1:", "admin: 127.0.0.1:9", 1) },
		"a client twice":          func(s string) string { return strings.Replace(s, "role/operator/noc", "role/auditor/grace", 1) },
		"a range that is none":    func(s string) string { return strings.Replace(s, `"FFFFFFFFFFFFFFFFFFFF"`, `"FF"`, 1) },
		"SoftHSM in production":   func(s string) string { return strings.Replace(s, "token:\n", "token:\n  softhsm: x\n", 1) },
		"a missing release key": func(s string) string {
			return strings.Replace(s, "releaseKeys: {}", "releaseKeys: {acme: {r: nowhere.pem}}", 1)
		},
		"an unknown role": func(s string) string { return strings.Replace(s, "role: operator", "role: king", 1) },
		"an auditor of one issuer": func(s string) string {
			return strings.Replace(s, "role: auditor", "role: auditor\n    issuer: acme", 1)
		},
		"an idle time too long": func(s string) string { return strings.Replace(s, "idle: 5m", "idle: 5h", 1) },
		"a negative life":       func(s string) string { return strings.Replace(s, "absolute: 1h", "absolute: -1h", 1) },
		"no anchor": func(s string) string {
			return strings.Replace(s, "file: /var/lib/cardkms-anchor/checkpoint", "file: ''", 1)
		},
		"an anchor beside the database": func(s string) string {
			return strings.Replace(s, "file: /var/lib/cardkms-anchor/", "file: /var/lib/cardkms/", 1)
		},
		"no state key": func(s string) string { return strings.Replace(s, "label: cardkms-state,", "label: '',", 1) },
		"a witness without a key": func(s string) string {
			return strings.Replace(s, "witnesses: []", "witnesses: [{name: w, url: 'http://127.0.0.1:1'}]", 1)
		},
		"a witness nowhere": func(s string) string {
			return strings.Replace(s, "witnesses: []", "witnesses: [{name: w, url: 'nowhere', key: x}]", 1)
		},
		"a database without a node": func(s string) string { return s + "\ndatabase: {url: 'postgres:///x?host=/run'}\n" },
		"a node without a database": func(s string) string { return s + "\nnode: n1\n" },
		"a node with a bad name":    func(s string) string { return s + "\nnode: N.1\ndatabase: {url: 'postgres:///x?host=/run'}\n" },
		"a database in clear":       func(s string) string { return s + "\nnode: n1\ndatabase: {url: 'postgres://db.example.com/x'}\n" },
		"a password in the file":    func(s string) string { return s + "\nnode: n1\ndatabase: {url: 'postgres://a:b@localhost/x'}\n" },
		"metrics for everybody":     func(s string) string { return strings.Replace(s, "admin: 127.0.0.1", "admin: 0.0.0.0", 1) },
		"a drain too long":          func(s string) string { return strings.Replace(s, "drain: 10s", "drain: 10m", 1) },
		"a negative drain":          func(s string) string { return strings.Replace(s, "drain: 10s", "drain: -10s", 1) },
		"a negative rate":           func(s string) string { return strings.Replace(s, "perSecond: 2000", "perSecond: -1", 1) },
		"a negative quota":          func(s string) string { return strings.Replace(s, "channels: 10000}", "channels: -1}", 1) },
		"revoking nobody":           func(s string) string { return strings.Replace(s, "revoked: []", "revoked: [grace]", 1) },
		"people without a door":     func(s string) string { return s + "\npeople: {issuer: \"https://login.example.com\"}\n" },
		"PIN of no Vault": func(s string) string {
			return strings.Replace(s, "file:/etc/cardkms/pin", `"vault:kv/cardkms/hsm#pin"`, 1)
		},
		"a Vault for nothing":   func(s string) string { return s + vaultSection },
		"two certificates":      func(s string) string { return withVault(strings.Replace(s, "tls:\n", "tls:\n  vault: "+pkiSection, 1)) },
		"a certificate by half": func(s string) string { return strings.Replace(s, "  key: /etc/cardkms/server.key\n", "", 1) },
		"profiles":              func(s string) string { return s + "\nprofiles: {default: {level: \"33\"}}\n" },
		"no channels":           func(s string) string { return strings.Replace(s, "channels: 100000", "channels: 0", 1) },
	} {
		text := change(good)
		if text == good {
			t.Errorf("%s: the example does not hold what this case changes", name)
		}
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(path); err == nil {
			t.Errorf("%s passed", name)
		}
	}
}

// TestConfigurationNamesEveryProblem: who mends a configuration sees at once all that
// is wrong with it, in the same order every time.
func TestConfigurationNamesEveryProblem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	const text = "data: d\nlimits: {channels: 0, idle: 5h}\nprofiles: {b: {level: \"02\"}, a: {mode: s9, level: \"33\"}}\n" +
		"clients: [{id: y, role: king}, {id: x, role: update-server}]\nreleaseKeys: {acme: {r: nowhere.pem}}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"listen is missing", "token.module is missing", "token.label", "token.pin", "token.pseudonym.label", "token.state.label", "log.label", "log.origin",
		"log.verifier", "anchors.file", "tls.clientCAs", "tls has certificate and key, or vault", "limits.idle", "limits.channels", "profiles are registered",
		`client "y"`, `client "x"`, "release key r of acme",
	}
	for range 5 {
		_, err := load(path)
		if !errors.As(err, &errUsage{}) {
			t.Fatalf("%v is no error of the configuration", err)
		}
		lines := strings.Split(err.Error(), "\n")[1:]
		if len(lines) != len(want) {
			t.Fatalf("%d problems, want %d:\n%v", len(lines), len(want), err)
		}
		for i, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("problem %d is %q, want %q", i+1, lines[i], w)
			}
		}
	}
}

// TestNoYAML: what is no configuration at all is refused, without a panic.
func TestNoYAML(t *testing.T) {
	for _, text := range []string{"", "\x00", "[", "a: b: c", "? ", "&a *a", "- - -\n-", "!!binary |", "listen: &x [*x]", "<<: 1", "%YAML 9", "{a: {b: {c: "} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(path); !errors.As(err, &errUsage{}) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSecretsAreReferences(t *testing.T) {
	c := &config{dir: t.TempDir()}
	if _, err := c.resolve("1234"); err == nil || strings.Contains(err.Error(), "1234") {
		t.Errorf("a PIN in the configuration: %v", err)
	}
	t.Setenv("CARDKMS_TEST_PIN", "5678")
	s, err := c.resolve("env:CARDKMS_TEST_PIN")
	if err != nil || string(s.Reveal()) != "5678" || os.Getenv("CARDKMS_TEST_PIN") != "" {
		t.Errorf("%v; the variable is still set: %v", err, os.Getenv("CARDKMS_TEST_PIN") != "")
	}
	if err := os.WriteFile(filepath.Join(c.dir, "pin"), []byte("91011\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = c.resolve("file:pin"); err != nil || string(s.Reveal()) != "91011" {
		t.Error(err)
	}
}

// TestTokensOfAConfiguration: what is wrong with a token, or with two in one process, is
// said with the field.
func TestTokensOfAConfiguration(t *testing.T) {
	one := ModuleConfig{Module: "/lib/a.so", Label: "main", PIN: "file:pin"}
	with := func(change func(*ModuleConfig)) ModuleConfig {
		c := ModuleConfig{Module: "/lib/a.so", Label: "second", PIN: "file:pin"}
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		tokens map[string]ModuleConfig
		want   string
	}{
		"another label":    {map[string]ModuleConfig{"b": with(func(*ModuleConfig) {})}, ""},
		"another module":   {map[string]ModuleConfig{"b": with(func(c *ModuleConfig) { c.Module, c.InitArgs, c.Label = "/lib/b.so", "x", "main" })}, ""},
		"no module":        {map[string]ModuleConfig{"b": with(func(c *ModuleConfig) { c.Module = "" })}, "tokens.b.module is missing"},
		"no PIN":           {map[string]ModuleConfig{"b": with(func(c *ModuleConfig) { c.PIN = "" })}, "tokens.b.pin is missing"},
		"the same token":   {map[string]ModuleConfig{"b": with(func(c *ModuleConfig) { c.Label = "main" })}, "tokens.b is the token of token"},
		"one twice":        {map[string]ModuleConfig{"b": with(func(*ModuleConfig) {}), "c": with(func(*ModuleConfig) {})}, "tokens.c is the token of tokens.b"},
		"two strings":      {map[string]ModuleConfig{"b": with(func(c *ModuleConfig) { c.InitArgs = "x" })}, "tokens.b.initArgs"},
		"SoftHSM":          {map[string]ModuleConfig{"b": with(func(c *ModuleConfig) { c.SoftHSM = "dir" })}, "tokens.b.softhsm is for development"},
		"the name main":    {map[string]ModuleConfig{"main": with(func(*ModuleConfig) {})}, "tokens.main: a token has a name"},
		"a name that is 0": {map[string]ModuleConfig{"B/": with(func(*ModuleConfig) {})}, "tokens.B/: a token has a name"},
		"one KEK in two":   {map[string]ModuleConfig{"b": with(func(c *ModuleConfig) { c.KEKs = []string{"k"} }), "c": with(func(c *ModuleConfig) { c.Label, c.KEKs = "third", []string{"k"} })}, "tokens.c.keks has k"},
	} {
		cfg := &config{Token: tokenConfig{ModuleConfig: one}, Tokens: c.tokens}
		err := errors.Join(cfg.checkTokens()...)
		if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	cfg := &config{Development: true, Token: tokenConfig{ModuleConfig: one}, Tokens: map[string]ModuleConfig{"b": with(func(c *ModuleConfig) { c.SoftHSM = "x" })}}
	cfg.Token.SoftHSM = "y"
	if err := errors.Join(cfg.checkTokens()...); err == nil || !strings.Contains(err.Error(), "SoftHSM2 has one") {
		t.Errorf("two directories of SoftHSM2: %v", err)
	}
}

const (
	vaultSection = "\nvault: {address: \"https://vault.example.com:8200\", caCert: ca.pem, auth: {approle: {role: cardkms, roleID: r, wrappedSecretID: \"file:s\"}}}\n"
	pkiSection   = "{pki: pki/sign/cardkms, commonName: kms.example.com, ipSANs: [127.0.0.1], ttl: 24h}\n"
)

// withVault has a configuration take the PIN from Vault.
func withVault(s string) string {
	return strings.Replace(s, "file:/etc/cardkms/pin", `"vault:kv/cardkms/hsm#pin"`, 1) + vaultSection
}

// TestVaultPageConfiguration puts the configuration of deploy/vault/README.md into the example for
// production, with each way to log in.
func TestVaultPageConfiguration(t *testing.T) {
	example, err := os.ReadFile("../../deploy/cardkms.yaml")
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := audit.CosignerKey("kms.example.com/audit/vault", make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Replace(fenced(t, "../../deploy/vault/README.md", "Configuration", "```yaml")[0], "kms.example.com/audit/vault+…", vkey, 1)
	approle := regexp.MustCompile(`(?m)^ *approle: .*\n`).FindString(page)
	others := regexp.MustCompile(`(?m)^ *# or: (.*\n)`).FindAllStringSubmatch(page, -1)
	if approle == "" || len(others) != 2 {
		t.Fatalf("the page has other ways to log in: %q, %q", approle, others)
	}
	for _, login := range []string{approle, "    " + others[0][1], "    " + others[1][1]} {
		merged := map[string]any{}
		for _, text := range []string{string(example), strings.Replace(page, approle, login, 1)} {
			section := map[string]any{}
			if err := yaml.Unmarshal([]byte(text), &section); err != nil {
				t.Fatal(err)
			}
			if token, ok := merged["token"].(map[string]any); ok { // the page has its PIN only
				maps.Copy(token, section["token"].(map[string]any))
				section["token"] = token
			}
			maps.Copy(merged, section)
		}
		text, err := yaml.Marshal(merged)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "cardkms.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(path); err != nil {
			t.Errorf("with %s: %v", strings.TrimSpace(login), err)
		}
	}
}

// TestVaultConfiguration changes one thing at a time in a configuration that is right.
func TestVaultConfiguration(t *testing.T) {
	b, err := os.ReadFile("../../deploy/cardkms.yaml")
	if err != nil {
		t.Fatal(err)
	}
	witness := `{name: v, kind: transit, transit: transit/k, memory: "kv/w#c"}`
	good := withVault(strings.NewReplacer(
		"  certificate: /etc/cardkms/server.pem\n  key: /etc/cardkms/server.key\n", "  vault: "+pkiSection,
		"witnesses: []", "witnesses: ["+witness+"]",
	).Replace(regexp.MustCompile(`(?m)^ *#.*`).ReplaceAllString(string(b), "")))
	check := func(text string) error {
		t.Helper()
		path := filepath.Join(t.TempDir(), "cardkms.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := load(path)
		return err
	}
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"https://vault", "http://vault"}, {"caCert: ca.pem", "caCert: ''"}, {"role: cardkms, roleID", "roleID"}, {"roleID: r, ", ""}, {"file:s", "env:S"},
		{"approle: {", "userpass: {"}, {"auth: {", "auth: {cert: {role: r, certificate: c, key: k}, "}, {"kv/cardkms/hsm#pin", "kv/cardkms/hsm"},
		{"pki/sign/cardkms", "pki/issue/cardkms"}, {"commonName: kms.example.com", "commonName: ''"}, {"127.0.0.1", "nowhere"}, {"ttl: 24h", "ttl: 1m"},
		{"transit: transit/k", "transit: k"}, {"kv/w#c", "kv/w"}, {"kind: transit", "kind: other"}, {"kind: transit, ", ""},
		{`memory: "kv/w#c"`, `memory: "kv/w#c", key: "x+00000000+AAAA"`}, {`memory: "kv/w#c"`, `memory: "kv/w#c", url: "https://w"`},
		{"data: /var/lib/cardkms\n", "data: /var/lib/cardkms\nnode: n1\ndatabase: {url: 'postgres:///x?host=/run', credentials: 'file:x'}\n"},
		{"data: /var/lib/cardkms\n", "data: /var/lib/cardkms\nnode: n1\ndatabase: {url: 'postgres:///x?host=/run', credentials: 'vault:database/creds/x', password: 'file:x'}\n"},
	} {
		text := strings.Replace(good, change[0], change[1], 1)
		if text == good {
			t.Fatalf("nothing changed: %q", change)
		}
		if err := check(text); err == nil {
			t.Errorf("%q instead of %q passes", change[1], change[0])
		}
	}
}

// TestListen: an address is refused before a set-up has it, and before anything is opened.
func TestListen(t *testing.T) {
	for address, right := range map[string]bool{
		"127.0.0.1:8443": true, ":8443": true, "[::1]:65535": true, "kms.example.com:https": true, "127.0.0.1:0": true,
		"8443": false, "127.0.0.1": false, "127.0.0.1:": false, "127.0.0.1:99999": false, "127.0.0.1:-1": false, "::1:8443": false, "127.0.0.1:nowhere": false,
	} {
		if err := checkListen(address); (err == nil) != right {
			t.Errorf("%s: %v", address, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "kms")
	out, err := (&site{t: t}).cardkmsd("", "init", dir, "--listen", "8443")
	if _, made := os.Stat(dir); exitStatus(err) != exitUsage || made == nil || !strings.Contains(out, `--listen: "8443" is not HOST:PORT`) {
		t.Errorf("init: %v\n%s", err, out)
	}
	c := config{Listen: "127.0.0.1:1", People: peopleConfig{Listen: "nowhere"}}
	if err := c.check(); !strings.Contains(err.Error(), `people.listen: "nowhere"`) || strings.Contains(err.Error(), "\nlisten:") {
		t.Errorf("a door for people: %v", err)
	}
}
