package main

import (
	"context"
	"reflect"
	"unsafe"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/vault"
)

// completeAll gives every path of every back end that can create something a check whether
// it exists. The core was built with a module for back ends that was never published; the
// published one is stricter, and panics at a path without. The core's own back ends are
// reached through its two tables only.
func completeAll(core *vault.Core) {
	for _, table := range []string{"logicalBackends", "credentialBackends"} {
		field := reflect.ValueOf(core).Elem().FieldByName(table)
		factories := *(*map[string]logical.Factory)(unsafe.Pointer(field.UnsafeAddr()))
		for name, f := range factories {
			factories[name] = complete(f)
		}
	}
}

func complete(f logical.Factory) logical.Factory {
	return func(ctx context.Context, c *logical.BackendConfig) (logical.Backend, error) {
		b, err := f(ctx, c)
		if err != nil {
			return nil, err
		}
		inner := reflect.ValueOf(b).Elem().FieldByName("Backend")
		if !inner.IsValid() {
			return b, nil
		}
		if base, ok := inner.Interface().(*framework.Backend); ok {
			for _, p := range base.Paths {
				_, creates := p.Operations[logical.CreateOperation]
				_, calls := p.Callbacks[logical.CreateOperation]
				if p.ExistenceCheck == nil && (creates || calls) {
					p.ExistenceCheck = exists
				}
			}
		}
		return b, nil
	}
}

// exists says that every write is an update, which is what the core's own module took it
// for at such a path.
func exists(context.Context, *logical.Request, *framework.FieldData) (bool, error) {
	return true, nil
}
