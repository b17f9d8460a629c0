package server

import (
	"net/http"
	"strings"

	"cardkms/api"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
)

const description = `Post-issuance update of smart cards: Secure Channel Protocol 03 and CUP-1 update packages whose keys never leave a
PKCS#11 token.

Every path below /v1 needs a client certificate with exactly one URI of the form spiffe://trust-domain/…/role/{role}.
Refusals are application/problem+json; their ` + "`code`" + ` is stable. Card data is hexadecimal, either case in requests, upper case
in answers. Unknown members, members in another case, duplicate names and unknown query parameters are refused.`

// newDocument starts the OpenAPI document that the operations add themselves to.
func newDocument(version string) *huma.OpenAPI {
	if version == "" {
		version = Version
	}
	return &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info:    &huma.Info{Title: "cardkms", Version: version, Description: description},
		Components: &huma.Components{
			Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
			SecuritySchemes: map[string]*huma.SecurityScheme{
				"mutualTLS": {Type: "mutualTLS", Description: "TLS 1.3 with a client certificate of the client CA."},
				"person":    {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An ID token of the configured OpenID provider, on the listener for people; not for update servers."},
			},
		},
		Security: []map[string][]string{{"mutualTLS": {}}, {"person": {}}},
	}
}

// newAPI registers operations on a router, into a shared document.
func newAPI(r chi.Router, doc *huma.OpenAPI) huma.API {
	return humachi.New(r, huma.Config{
		OpenAPI: doc, Formats: map[string]huma.Format{"application/json": strict, "json": strict},
		DefaultFormat: "application/json", RejectUnknownQueryParameters: true,
	})
}

// finish adds to the document what the registration cannot say.
func finish(doc *huma.OpenAPI) {
	asked := requestSchemas(doc)
	for name, schema := range doc.Components.Schemas.Map() {
		for _, p := range schema.Properties {
			hexadecimal(p)
		}
		if !asked["#/components/schemas/"+name] {
			schema.AdditionalProperties = nil // a later server may answer with more
		}
	}
	code := doc.Components.Schemas.Map()["Problem"].Properties["code"]
	var b strings.Builder
	b.WriteString(code.Description + "\n\n")
	for _, c := range api.Codes() {
		code.Enum = append(code.Enum, string(c))
		b.WriteString("- `" + string(c) + "`: " + c.Title() + "\n")
	}
	code.Description = b.String()
	for _, path := range doc.Paths {
		for _, op := range []*huma.Operation{path.Get, path.Post, path.Put, path.Delete} {
			if op != nil && op.Responses["default"] != nil {
				op.Responses["default"].Description = "Refusal; `code` says why."
			}
		}
	}
}

// requestSchemas returns the references of the bodies that clients send.
func requestSchemas(doc *huma.OpenAPI) map[string]bool {
	out := map[string]bool{}
	for _, path := range doc.Paths {
		for _, op := range []*huma.Operation{path.Post, path.Put} {
			if op == nil || op.RequestBody == nil {
				continue
			}
			for _, media := range op.RequestBody.Content {
				out[media.Schema.Ref] = true
			}
		}
	}
	return out
}

// hexadecimal documents the alphabet of card data. The pattern is set after huma
// compiled the schemas and therefore not matched: api.Hex checks the same, a
// hundred times faster.
func hexadecimal(s *huma.Schema) {
	if s.Items != nil {
		s = s.Items
	}
	if s.Format == "hex" {
		s.Pattern = "^([0-9A-Fa-f]{2})*$"
	}
}

// serveDocument serves the finished document.
func serveDocument(doc *huma.OpenAPI) http.HandlerFunc {
	finish(doc)
	text, err := doc.YAML()
	if err != nil {
		panic("server: the OpenAPI document cannot be encoded: " + err.Error())
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml") // [RFC 9512]
		_, _ = w.Write(text)
	}
}
