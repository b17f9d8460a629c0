// Package deploy holds the files with which cardkms is deployed, for the demonstration and
// the tests that use them as they are.
package deploy

import _ "embed"

// HAProxy is the configuration of a load balancer before three nodes.
//
//go:embed haproxy.cfg
var HAProxy string

// PostgresRoles makes the roles of PostgreSQL.
//
//go:embed postgres/roles.sql
var PostgresRoles string

// Production is the configuration with every field explained.
//
//go:embed cardkms.yaml
var Production string
