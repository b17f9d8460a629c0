// Package api is the contract of cardkms with its callers: the JSON types, the
// codes with which it refuses, and the OpenAPI document.
//
// Server and client both use these types, so what one writes the other reads.
// They follow [JSON] RFC 8259, [Problem] RFC 9457 for refusals, and [OpenAPI]
// OpenAPI 3.1; openapi.yaml is generated from the server's registration, and a
// test fails when it is not what is committed here.
//
// Card data is hexadecimal: Hex accepts either case, writes upper case, and
// refuses everything else. Times are RFC 3339 in UTC. Names of members are
// lowerCamelCase and compared exactly.
//
// The package imports nothing of ours and does no I/O. The struct tags beside
// json (doc, format, minLength, …) describe a member in the OpenAPI document and
// are enforced by the server.
package api

import _ "embed" // for openapi.yaml

// OpenAPI is the committed OpenAPI 3.1 document.
//
//go:embed openapi.yaml
var OpenAPI []byte

// Prefix is what every path but those of health starts with.
const Prefix = "/v1"

// Headers of the protocol.
const (
	// HeaderIdempotencyKey names one intended change: a request that is repeated
	// under the same key happens once. 1 to 64 characters of A-Z a-z 0-9 . _ -
	HeaderIdempotencyKey = "Idempotency-Key"
	// HeaderNode tells a load balancer which node a request is for: that which the id of
	// the request's channel begins with. A request without a channel has none.
	HeaderNode = "Cardkms-Node"
	// HeaderRequestID leads from an answer to the operator's log and the audit entry.
	HeaderRequestID = "X-Request-Id"
)

// Media types beside application/json.
const (
	ProblemType = "application/problem+json"
	BinaryType  = "application/octet-stream"
)
