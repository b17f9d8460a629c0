package main

import (
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	auditfile "github.com/hashicorp/vault/builtin/audit/file"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

var secretEngines = map[string]logical.Factory{
	"kv": kv.Factory, "pki": pki.Factory, "transit": transit.Factory, "database": database.Factory,
}

var authMethods = map[string]logical.Factory{
	"approle": approle.Factory, "cert": cert.Factory, "kubernetes": kubernetes.Factory,
}

var auditDevices = map[string]audit.Factory{"file": auditfile.Factory}

// registry names the plug-ins that are linked.
type registry struct{}

const postgres = "postgresql-database-plugin"

func (registry) Contains(name string, kind consts.PluginType) bool {
	_, ok := registry{}.Get(name, kind)
	return ok
}

func (registry) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	var f logical.Factory
	switch kind {
	case consts.PluginTypeDatabase:
		return postgresql.New, name == postgres
	case consts.PluginTypeSecrets:
		f = secretEngines[name]
	case consts.PluginTypeCredential:
		f = authMethods[name]
	}
	return func() (interface{}, error) { return f, nil }, f != nil
}

func (registry) Keys(kind consts.PluginType) (names []string) {
	switch kind {
	case consts.PluginTypeDatabase:
		names = []string{postgres}
	case consts.PluginTypeSecrets:
		for n := range secretEngines {
			names = append(names, n)
		}
	case consts.PluginTypeCredential:
		for n := range authMethods {
			names = append(names, n)
		}
	}
	return names
}

func (registry) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, true
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
