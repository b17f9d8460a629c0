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
// sh. values replace the variables in them. It returns what they print under -field.
func (s *Server) Setup(values map[string]string, sections ...string) (printed []string) {
	s.t.Helper()
	root, err := Root()
	s.must(err)
	dir := filepath.Join(root, "deploy", "vault")
	text, err := os.ReadFile(filepath.Join(dir, "README.md"))
	s.must(err)
	for _, name := range sections {
		_, after, ok := strings.Cut(string(text), "# "+name+"\n")
		section, _, _ := strings.Cut(after, "\n##")
		if _, block, found := strings.Cut(section, "\n```sh\n"); ok && found {
			block, _, _ = strings.Cut(block, "\n```")
			printed = append(printed, s.run(dir, block, values)...)
			continue
		}
		s.t.Fatalf("deploy/vault/README.md has no commands in a section %q", name)
	}
	return printed
}

func (s *Server) run(dir, block string, values map[string]string) (printed []string) {
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
		out, err := s.command(dir, args)
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		if out != "" {
			printed = append(printed, out)
		}
	}
	return printed
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

// command does what the program vault does with these arguments, and returns what it
// prints under -field.
func (s *Server) command(dir string, args []string) (string, error) {
	n := 3 // vault, and two words
	switch {
	case args[1] == "read" || args[1] == "write":
		n = 2
	case args[2] == "metadata":
		n = 4
	}
	what, rest := strings.Join(args[1:n], " "), args[n:]
	flags := map[string]string{}
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		name, value, _ := strings.Cut(strings.TrimLeft(rest[0], "-"), "=")
		flags[name] = value
		rest = rest[1:]
	}
	path, rest := rest[0], rest[1:]
	switch what {
	case "read":
		got, err := s.root.Logical().Read(path)
		return field(got, flags["field"]), err
	case "write":
		data, err := parameters(dir, rest)
		if err != nil {
			return "", err
		}
		got, err := s.wrapping(flags["wrap-ttl"]).Logical().Write(path, data)
		return field(got, flags["field"]), err
	case "policy write":
		rules, err := os.ReadFile(filepath.Join(dir, rest[0]))
		if err != nil {
			return "", err
		}
		return "", s.root.Sys().PutPolicy(path, string(rules))
	}
	return "", s.administer(what, path, flags, rest)
}

// field returns what the program prints under -field: a field of the data of an answer,
// or its wrapping token.
func field(got *api.Secret, name string) string {
	switch {
	case got == nil || name == "":
		return ""
	case name == "wrapping_token" && got.WrapInfo != nil:
		return got.WrapInfo.Token
	}
	text, _ := got.Data[name].(string)
	return text
}

// administer does the commands that print nothing and read no file beside the page.
func (s *Server) administer(what, path string, flags map[string]string, rest []string) error {
	switch what {
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
	case "kv metadata delete":
		mount, secret, _ := strings.Cut(path, "/")
		_, err := s.root.Logical().Delete(mount + "/metadata/" + secret)
		return err
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
			if !filepath.IsAbs(file) {
				file = filepath.Join(dir, file)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			value = string(b)
		}
		data[name] = value
	}
	return data, nil
}
