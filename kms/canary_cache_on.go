//go:build canary_cache

package kms

const staleCache = true
