package server

import (
	"net/http"
	"strings"
	"testing"

	"cardkms/api"
)

// TestMalformedBodies sends bodies that no strict reader takes. None of them
// does anything, and no answer repeats what was sent.
func TestMalformedBodies(t *testing.T) {
	const secret = "5EC4E7"
	tests := map[string]struct{ body, pointer string }{
		"empty":           {"", ""},
		"null":            {"null", "/body"},
		"array":           {"[]", "/body"},
		"string":          {`"` + secret + `"`, "/body"},
		"not JSON":        {`{"key":` + secret, "/body/key"},
		"truncated":       {`{"key":"isd"`, "/body"},
		"trailing":        {`{"key":"isd"}{}`, "/body"},
		"trailing comma":  {`{"key":"isd",}`, "/body"},
		"comment":         {`{"key":"isd"/**/}`, "/body"},
		"BOM":             {"\xEF\xBB\xBF" + `{"key":"isd"}`, "/body"},
		"invalid UTF-8":   {`{"key":"isd` + "\xFF" + `"}`, "/body/key"},
		"lone surrogate":  {`{"key":"\ud800"}`, "/body/key"},
		"duplicate":       {`{"key":"isd","key":"isd"}`, "/body/key"},
		"duplicate 2":     {`{"key":"isd","k\u0065y":"other"}`, "/body/key"},
		"unknown":         {`{"key":"isd","keys":1}`, "/body/keys"},
		"other case":      {`{"Key":"isd"}`, "/body/Key"},
		"both cases":      {`{"key":"isd","KEY":"isd"}`, "/body/KEY"},
		"missing":         {`{}`, ""}, // which cards of SCP11b alone do without
		"null member":     {`{"key":null}`, ""},
		"a certificate":   {`{"certificates":["3G"]}`, "/body/certificates/0"},
		"nine of them":    {`{"certificates":["","","","","","","","",""]}`, "/body/certificates"},
		"number":          {`{"key":1}`, "/body/key"},
		"name":            {`{"key":"` + secret + `"}`, "/body/key"},
		"empty name":      {`{"key":""}`, "/body/key"},
		"long name":       {`{"key":"` + strings.Repeat("a", 64) + `"}`, "/body/key"},
		"line break":      {`{"key":"isd\nsequence 1"}`, "/body/key"},
		"kvn of a digit":  {`{"key":"isd","kvn":"3"}`, "/body/kvn"},
		"kvn of three":    {`{"key":"isd","kvn":"300"}`, "/body/kvn"},
		"kvn not hex":     {`{"key":"isd","kvn":"3G"}`, "/body/kvn"},
		"kvn not ASCII":   {`{"key":"isd","kvn":"３０"}`, "/body/kvn"},
		"kvn as number":   {`{"key":"isd","kvn":48}`, "/body/kvn"},
		"deep":            {strings.Repeat("[", 20000), ""},
		"name of control": {`{"key":"isd","\u001b[31m":1}`, "/body/?/31m"},
	}
	w := newWorld(t)
	before := len(w.entries())
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			rec := w.do(ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels", key: newKey(), body: c.body})
			p := refused(t, rec, api.InvalidInput)
			if rec.Code != http.StatusBadRequest {
				t.Errorf("status %d", rec.Code)
			}
			if strings.Contains(rec.Body.String(), secret) {
				t.Errorf("the answer repeats the request: %s", rec.Body)
			}
			if c.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer) {
				t.Errorf("want %s, got %s", c.pointer, rec.Body)
			}
		})
	}
	if w.service.ChannelsOpen() != 0 || len(w.entries()) != before {
		t.Error("a malformed request did something")
	}
}

// TestHexOfScripts checks the lists of card data, whose alphabet the schema does
// not check.
func TestHexOfScripts(t *testing.T) {
	w := newWorld(t)
	ch := w.authenticated()
	for name, c := range map[string]struct{ body, pointer string }{
		"odd":   {`{"commands":["00A40400","00A4040"]}`, "/body/commands/1"},
		"space": {`{"commands":["00 A40400"]}`, "/body/commands/0"},
		"null":  {`{"commands":[null]}`, "/body/commands/0"},
		"none":  {`{"commands":[]}`, "/body/commands"},
		"many":  {`{"commands":["00A40400"` + strings.Repeat(`,"00A40400"`, api.ScriptMax) + `]}`, "/body/commands"},
		"empty": {`{"commands":[""]}`, ""},
		"short": {`{"commands":["00A404"]}`, ""},
	} {
		rec := w.do(ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels/" + ch + ":wrap", key: newKey(), body: c.body})
		p := refused(t, rec, api.InvalidInput)
		if c.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer) {
			t.Errorf("%s: want %s, got %s", name, c.pointer, rec.Body)
		}
		if len(p.Errors) > errorsMax {
			t.Errorf("%s: %d errors", name, len(p.Errors))
		}
	}
	lower := w.do(ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels/" + ch + ":wrap", key: newKey(), body: `{"commands":["80ca00e000"]}`})
	out := want[api.Commands](w, lower)
	if text := lower.Body.String(); len(out.Commands) != 1 || text[strings.Index(text, ":"):] != strings.ToUpper(text[strings.Index(text, ":"):]) {
		t.Errorf("either case in, upper case out: %s", text)
	}
}

// TestRequests checks what HTTP adds to a body.
func TestRequests(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.JSONBytesMax = 4096 })
	good := func() ask {
		return ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels", key: newKey(), body: `{"key":"isd"}`}
	}
	tests := map[string]struct {
		change func(*ask)
		status int
		code   api.Code
	}{
		"no key":            {func(a *ask) { a.key = "" }, 400, api.InvalidInput},
		"long key":          {func(a *ask) { a.key = strings.Repeat("k", 65) }, 400, api.InvalidInput},
		"key of spaces":     {func(a *ask) { a.key = "a b" }, 400, api.InvalidInput},
		"query":             {func(a *ask) { a.path += "?debug=1" }, 400, api.InvalidInput},
		"text":              {func(a *ask) { a.header = map[string]string{"Content-Type": "text/plain"} }, 415, api.InvalidInput},
		"problem":           {func(a *ask) { a.header = map[string]string{"Content-Type": "application/x+json"} }, 415, api.InvalidInput},
		"latin":             {func(a *ask) { a.header = map[string]string{"Content-Type": "application/json; charset=latin1"} }, 415, api.InvalidInput},
		"no type":           {func(a *ask) { a.header = map[string]string{"Content-Type": ""} }, 415, api.InvalidInput},
		"gzip":              {func(a *ask) { a.header = map[string]string{"Content-Encoding": "gzip"} }, 415, api.InvalidInput},
		"too large":         {func(a *ask) { a.body = `{"key":"isd"` + strings.Repeat(" ", 4096) + `}` }, 413, api.TooLarge},
		"path":              {func(a *ask) { a.path = acme + "/nothing" }, 404, api.NotFound},
		"root":              {func(a *ask) { a.path = "/" }, 404, api.NotFound},
		"slash":             {func(a *ask) { a.path += "/" }, 404, api.NotFound},
		"verb":              {func(a *ask) { a.path += "/" + strings.Repeat("a", 32) + ":sign" }, 405, api.InvalidInput},
		"method":            {func(a *ask) { a.method = http.MethodPatch }, 405, api.InvalidInput},
		"strange method":    {func(a *ask) { a.method = "BREW" }, 405, api.InvalidInput},
		"issuer":            {func(a *ask) { a.path = "/v1/issuers/ACME/channels" }, 400, api.InvalidInput},
		"issuer escaped":    {func(a *ask) { a.path = "/v1/issuers/ac%0Ame/channels" }, 400, api.InvalidInput},
		"issuer with slash": {func(a *ask) { a.path = "/v1/issuers/ac%2Fme/channels" }, 400, api.InvalidInput},
		"good":              {func(*ask) {}, 201, ""},
		"charset":           {func(a *ask) { a.header = map[string]string{"Content-Type": "application/json; charset=UTF-8"} }, 201, ""},
		"exactly the limit": {func(a *ask) { a.body = `{"key":"isd"` + strings.Repeat(" ", 4096-13) + `}` }, 201, ""},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			a := good()
			c.change(&a)
			rec := w.do(a)
			if rec.Code != c.status {
				t.Fatalf("status %d, not %d: %s", rec.Code, c.status, rec.Body)
			}
			if c.code != "" {
				refused(t, rec, c.code)
			}
		})
	}
}

// TestAllow checks that 405 names the methods of the path.
func TestAllow(t *testing.T) {
	w := newWorld(t)
	rec := w.do(ask{as: uriUpdate, method: http.MethodDelete, path: acme + "/images"})
	refused(t, rec, api.InvalidInput)
	if got := strings.Join(rec.Header().Values("Allow"), ","); rec.Code != http.StatusMethodNotAllowed || got != "GET,POST" {
		t.Errorf("%d, Allow: %s", rec.Code, got)
	}
}

// TestImagesRefused checks images that a card must not get.
func TestImagesRefused(t *testing.T) {
	w := newWorld(t)
	in, _ := w.image("cos-1-1", 200)
	register := func(im api.RegisterImage) ask {
		return ask{as: uriUpdate, method: http.MethodPost, path: acme + "/images", key: newKey(), body: im}
	}
	forged := in
	forged.Signature = append(api.Hex{}, in.Signature...)
	forged.Signature[5] ^= 1
	refused(t, w.do(register(forged)), api.ImageUnverified)
	higher := in
	higher.SecurityCounter++
	refused(t, w.do(register(higher)), api.ImageUnverified)
	unknown := in
	unknown.ReleaseKey = "release-2"
	refused(t, w.do(register(unknown)), api.ImageUnverified)
	short := in
	short.SHA256 = in.SHA256[1:]
	refused(t, w.do(register(short)), api.InvalidInput)
	post[api.Image](w, acme+"/images", in)
	other, _ := w.image("cos-1-1", 201)
	refused(t, w.do(register(other)), api.Conflict)
	if n := strings.Count(strings.Join(w.entries(), ""), "outcome image_unverified"); n != 3 {
		t.Errorf("%d entries of refused signatures", n)
	}
}
