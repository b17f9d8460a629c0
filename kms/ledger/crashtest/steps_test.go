package crashtest

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	quoted = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`)
	opened = regexp.MustCompile(`^[a-z0-9_]+\((\d+)<([^>]*)>`)
	number = regexp.MustCompile(`^[, ]*(\d+)`)
)

// parseSteps reads what strace -xx wrote. A call of another form than those that
// are known fails the test, for the disk would miss it.
func parseSteps(t *testing.T, log, dir string) (steps []step) {
	t.Helper()
	for line := range strings.Lines(log) {
		s, ok := parseStep(strings.TrimSpace(line), dir)
		if ok {
			steps = append(steps, s)
		}
		if strings.Contains(line, "unfinished") || strings.Contains(line, `"...`) {
			t.Fatalf("strace cut a line: %.200s", line)
		}
	}
	return steps
}

func parseStep(line, dir string) (s step, ok bool) {
	m := callName.FindStringSubmatch(line)
	if m == nil || strings.Contains(line, " = -1 ") {
		return s, false
	}
	s.call = m[1]
	var texts []string
	for _, q := range quoted.FindAllStringSubmatch(line, -1) {
		text, err := strconv.Unquote(`"` + q[1] + `"`)
		if err != nil {
			return s, false
		}
		texts = append(texts, text)
	}
	if fd := opened.FindStringSubmatch(line); fd != nil {
		path, err := strconv.Unquote(`"` + fd[2] + `"`)
		if fd[1] == "1" && s.call == "write" {
			return step{printed: texts[0]}, true
		}
		if err != nil || !within(path, dir) {
			return s, false
		}
		s.paths = []string{strings.TrimPrefix(path, dir+"/")}
		rest := line[len(fd[0]):]
		if len(texts) > 0 {
			s.data, rest = []byte(texts[0]), rest[strings.LastIndex(rest, `"`)+1:]
		}
		s.numbers = numbers(rest)
		return s, true
	}
	for _, path := range texts {
		if within(path, dir) {
			s.paths = append(s.paths, strings.TrimPrefix(path, dir+"/"))
		}
	}
	s.create = strings.Contains(line, "O_CREAT")
	return s, len(s.paths) > 0
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func numbers(s string) (all []int64) {
	for m := number.FindStringSubmatch(s); m != nil; m = number.FindStringSubmatch(s) {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		all, s = append(all, n), s[len(m[0]):]
	}
	return all
}
