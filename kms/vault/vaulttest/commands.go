package vaulttest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Setup runs the commands of sections of deploy/vault/README.md: those in blocks marked
// sh. values replace the variables in them.
func (s *Server) Setup(values map[string]string, sections ...string) {
	s.t.Helper()
	root, err := Root()
	s.must(err)
	dir := filepath.Join(root, "deploy", "vault")
	text, err := os.ReadFile(filepath.Join(dir, "README.md"))
	s.must(err)
	for _, name := range sections {
		_, after, ok := strings.Cut(string(text), "\n## "+name+"\n")
		section, _, _ := strings.Cut(after, "\n## ")
		if _, block, found := strings.Cut(section, "\n```sh\n"); ok && found {
			block, _, _ = strings.Cut(block, "\n```")
			s.run(dir, block, values)
			continue
		}
		s.t.Fatalf("deploy/vault/README.md has no commands in a section %q", name)
	}
}

func (s *Server) run(dir, block string, values map[string]string) {
	s.t.Helper()
	block = strings.ReplaceAll(block, "\\\n", " ")
	for _, line := range strings.Split(block, "\n") {
		args := words(os.Expand(line, func(name string) string {
			v, ok := values[name]
			if !ok {
				s.t.Fatalf("no value for %s in %q", name, line)
			}
			return v
		}))
		if err := s.command(dir, args); err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
	}
}

// words splits a command as a shell does that knows double quotes and nothing else.
func words(line string) (out []string) {
	quoted := false
	fields := strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
	for _, f := range fields {
		out = append(out, strings.ReplaceAll(f, `"`, ""))
	}
	return out
}

// command does what the program vault does with these arguments.
func (s *Server) command(dir string, args []string) error {
	what, rest := args[1], args[2:]
	if what != "write" {
		what, rest = what+" "+rest[0], rest[1:]
	}
	flags := map[string]string{}
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		name, value, _ := strings.Cut(strings.TrimLeft(rest[0], "-"), "=")
		flags[name] = value
		rest = rest[1:]
	}
	path, rest := rest[0], rest[1:]
	switch what {
	case "write":
		data, err := parameters(dir, rest)
		if err != nil {
			return err
		}
		_, err = s.root.Logical().Write(path, data)
		return err
	case "policy write":
		rules, err := os.ReadFile(filepath.Join(dir, rest[0]))
		if err != nil {
			return err
		}
		return s.root.Sys().PutPolicy(path, string(rules))
	case "auth enable":
		return s.root.Sys().EnableAuthWithOptions(path, &api.EnableAuthOptions{Type: path})
	case "audit enable":
		_, file, _ := strings.Cut(rest[0], "=")
		return s.root.Sys().EnableAuditWithOptions(path, &api.EnableAuditOptions{Type: path, Options: map[string]string{"file_path": file}})
	case "secrets enable":
		in := &api.MountInput{Type: path}
		if v := flags["version"]; v != "" {
			in.Options = map[string]string{"version": v}
		}
		return s.root.Sys().Mount(path, in)
	case "secrets tune":
		_, err := s.root.Logical().Write("sys/mounts/"+path+"/tune", map[string]any{"max_lease_ttl": flags["max-lease-ttl"]})
		return err
	case "kv put":
		return s.put(path, strings.TrimPrefix(rest[0], "@"))
	}
	return fmt.Errorf("the tests do not know the command %q", what)
}

// put writes the JSON object of a file as a secret.
func (s *Server) put(path, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var data map[string]any
	if err := json.Unmarshal(b, &data); err != nil {
		return err
	}
	mount, rest, _ := strings.Cut(path, "/")
	_, err = s.root.Logical().Write(mount+"/data/"+rest, map[string]any{"data": data})
	return err
}

// parameters reads NAME=VALUE and NAME=@FILE.
func parameters(dir string, args []string) (map[string]any, error) {
	data := map[string]any{}
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		if file, ok := strings.CutPrefix(value, "@"); ok {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return nil, err
			}
			value = string(b)
		}
		data[name] = value
	}
	return data, nil
}
